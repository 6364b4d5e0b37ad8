// tracepage.c: the page of `preempt trace report`.
//
// One file, without anything from elsewhere. All figures are in plain tables, and histograms in SVG: only the timeline needs a script. Names come from
// the program, so they are escaped; what the script gets are numbers and JSON strings.

#include "tracereport.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS_MAX = 200 };

static const char style[] =
	"<style>\n"
	":root{--bg:#fff;--fg:#1c2024;--dim:#667;--line:#d8dce2;--panel:#f5f6f8;--bar:#3b6fd4}\n"
	"@media(prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e4e7eb;--dim:#98a0aa;"
	"--line:#343a42;--panel:#1e2329;--bar:#6d9bf1}}\n"
	"body{font:14px/1.45 system-ui,sans-serif;margin:0 auto;padding:1.2em;max-width:1280px;"
	"background:var(--bg);color:var(--fg)}\n"
	"h1{font-size:1.35em;margin:0 0 .3em}h2{font-size:1.1em;margin:1.6em 0 .5em}\n"
	"p{margin:.3em 0}.dim{color:var(--dim)}.bad{color:#c33;font-weight:600}\n"
	"table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\n"
	"th,td{text-align:right;padding:.2em .7em;border-bottom:1px solid var(--line);"
	"white-space:nowrap}\n"
	"th{color:var(--dim);font-weight:500}th:first-child,td:first-child{text-align:left}\n"
	"td:first-child{max-width:34em;overflow:hidden;text-overflow:ellipsis}\n"
	".wide{overflow-x:auto}.grid{display:grid;gap:1em;"
	"grid-template-columns:repeat(auto-fill,minmax(380px,1fr))}\n"
	"figure{margin:0;background:var(--panel);border-radius:6px;padding:.7em}"
	"figcaption{margin-bottom:.3em}\n"
	"svg{width:100%;height:auto;display:block}svg rect{fill:var(--bar)}"
	"svg text{fill:var(--dim);font-size:10px}\n"
	"#box{position:relative;background:var(--panel);border-radius:6px;overflow:hidden}\n"
	"#rows{max-height:560px;overflow-y:auto}canvas{display:block;cursor:grab}\n"
	"#tip{position:absolute;pointer-events:none;display:none;background:var(--bg);"
	"color:var(--fg);border:1px solid var(--line);border-radius:4px;padding:.3em .6em;"
	"font-size:12px;white-space:pre;z-index:2}\n"
	".key span{display:inline-block;margin-right:1.1em}"
	".key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.35em}\n"
	"button{font:inherit;padding:.15em .8em}\n"
	"</style>\n";

// D: {span (ns), names {g: name}, rows [[title, is P, [start, length, g, n, state, detail, ...]]]}
static const char script[] =
	"(function(){'use strict';\n"
	"const S=['','starting','runnable','running','running without a P','waiting','in a "
	"call'],\n"
	"C=['','#9aa3ad','#e0a63a','#3fa34d','#7fc98a','#8a6fc9','#4d8fd6'],\n"
	"E=['cut off','','preempted','yielded','call','P retaken'],\n"
	"H=20,L=170,cv=document.getElementById('tl'),cx=cv.getContext('2d'),\n"
	"tip=document.getElementById('tip'),box=document.getElementById('box');\n"
	"let t0=0,t1=D.span,w=0;\n"
	"const css=n=>getComputedStyle(document.documentElement).getPropertyValue(n).trim();\n"
	"const ms=x=>x>=1e9?(x/1e9).toFixed(3)+' s':x>=1e6?(x/1e6).toFixed(3)+' ms':"
	"x>=1e3?(x/1e3).toFixed(2)+' us':x+' ns';\n"
	"const hue=g=>'hsl('+g*137.5%360+' 55% '+(45+g%3*8)+'%)';\n"
	"const X=t=>L+(t-t0)/(t1-t0)*(w-L),T=x=>t0+(x-L)/(w-L)*(t1-t0);\n"
	"function first(v,t){let a=0,b=v.length/6;while(a<b){const m=a+b>>1;"
	"if(v[m*6]+v[m*6+1]<t)a=m+1;else b=m}return a}\n"
	"function size(){const r=window.devicePixelRatio||1;w=box.clientWidth;"
	"const h=(D.rows.length+1)*H+4;cv.style.width=w+'px';cv.style.height=h+'px';"
	"cv.width=w*r;cv.height=h*r;cx.setTransform(r,0,0,r,0,0);draw()}\n"
	"function draw(){const "
	"fg=css('--fg'),dim=css('--dim'),line=css('--line'),bg=css('--panel');\n"
	"cx.fillStyle=bg;cx.fillRect(0,0,w,cv.height);cx.font='11px system-ui,sans-serif';"
	"cx.textBaseline='middle';\n"
	"let step=Math.pow(10,Math.floor(Math.log10((t1-t0)/5)));"
	"while((t1-t0)/step>8)step*=(t1-t0)/step>16?5:2;\n"
	"for(let t=Math.ceil(t0/step)*step;t<t1;t+=step){const x=X(t);cx.fillStyle=line;"
	"cx.fillRect(x,H,1,D.rows.length*H);cx.fillStyle=dim;cx.fillText(ms(Math.round(t)),x+3,H/"
	"2)}\n"
	"D.rows.forEach((row,i)=>{const y=(i+1)*H,v=row[2];\n"
	"for(let k=first(v,t0);k*6<v.length;k++){const s=v[k*6],d=v[k*6+1];if(s>t1)break;\n"
	"const x=Math.max(L,X(s)),e=Math.min(w,X(s+d)),n=v[k*6+3],g=v[k*6+2],st=v[k*6+4];\n"
	"cx.fillStyle=row[1]?(n>1&&!g?dim:hue(g)):(n>1&&!g?dim:C[st]||dim);\n"
	"const r=row[1]?0:st===3?0:4;cx.fillRect(x,y+2+r,Math.max(e-x,.6),H-4-2*r);\n"
	"if(row[1]&&e-x>46&&g){cx.save();cx.beginPath();cx.rect(x,y,e-x-2,H);cx.clip();"
	"cx.fillStyle='#fff';cx.fillText(D.names[g]||g,x+4,y+H/2);cx.restore()}}\n"
	"cx.fillStyle=bg;cx.fillRect(0,y,L,H);cx.fillStyle=fg;cx.save();cx.beginPath();"
	"cx.rect(0,y,L-6,H);cx.clip();cx.fillText(row[0],6,y+H/2);cx.restore();\n"
	"cx.fillStyle=line;cx.fillRect(0,y,w,.5)})}\n"
	"function view(a,b){const m=Math.min(100,D.span);if(b-a<m){const "
	"c=(a+b)/2;a=c-m/2;b=c+m/2}\n"
	"if(b-a>D.span){a=0;b=D.span}if(a<0){b-=a;a=0}if(b>D.span){a-=b-D.span;b=D.span}t0=Math."
	"max(0,a);t1=b;draw()}\n"
	"function zoom(x,f){const t=T(x);view(t-(t-t0)*f,t+(t1-t)*f)}\n"
	"cv.addEventListener('wheel',e=>{if(e.shiftKey)return;e.preventDefault();"
	"const d=(t1-t0)/10;if(Math.abs(e.deltaX)>Math.abs(e.deltaY))view(t0+Math.sign(e.deltaX)*d,"
	"t1+Math.sign(e.deltaX)*d);else zoom(e.offsetX,e.deltaY>0?1.3:1/1.3)},{passive:false});\n"
	"let drag=null;cv.addEventListener('pointerdown',e=>{drag=[e.offsetX,t0,t1];"
	"cv.setPointerCapture(e.pointerId)});\n"
	"cv.addEventListener('pointerup',()=>drag=null);\n"
	"cv.addEventListener('pointermove',e=>{if(drag){const d=(drag[0]-e.offsetX)/(w-L)*"
	"(drag[2]-drag[1]);view(drag[1]+d,drag[2]+d);return}\n"
	"const row=D.rows[Math.floor(e.offsetY/H)-1];tip.style.display='none';"
	"if(!row||e.offsetX<L)return;\n"
	"const t=T(e.offsetX),v=row[2],k=first(v,t-(t1-t0)/(w-L));"
	"if(k*6>=v.length||v[k*6]>t+(t1-t0)/(w-L))return;\n"
	"const g=v[k*6+2],n=v[k*6+3],st=v[k*6+4];let s=row[0]+'\\n';\n"
	"s+=n>1?n+' short pieces'+(g?', '+(row[1]?D.names[g]||g:S[st]):''):row[1]?(D.names[g]||g)+"
	"(E[st]?', then '+E[st]:st===1?', then waits for '+D.waits[v[k*6+5]]:''):"
	"S[st]+(st===5?' for '+D.waits[v[k*6+5]]:'');\n"
	"s+='\\nat '+ms(v[k*6])+', '+ms(v[k*6+1]);tip.textContent=s;tip.style.display='block';"
	"const "
	"b=box.getBoundingClientRect();tip.style.left=Math.min(e.clientX-b.left+12,w-240)+'px';"
	"tip.style.top=e.clientY-b.top+14+'px'});\n"
	"cv.addEventListener('pointerleave',()=>tip.style.display='none');\n"
	"document.getElementById('in').onclick=()=>zoom((w+L)/2,1/2);\n"
	"document.getElementById('out').onclick=()=>zoom((w+L)/2,2);\n"
	"document.getElementById('all').onclick=()=>view(0,D.span);\n"
	"window.addEventListener('resize',size);size();"
	"document.documentElement.setAttribute('data-drawn',D.rows.length)})();\n";

static void text(FILE *out, const char *s)
{
	for (; *s; s++) {
		switch (*s) {
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '&':
			fputs("&amp;", out);
			break;
		case '"':
			fputs("&quot;", out);
			break;
		default:
			if ((unsigned char)*s >= ' ')
				fputc(*s, out);
		}
	}
}

static void cell_text(FILE *out, const char *s)
{
	fputs("<td>", out);
	text(out, s);
	fputs("</td>", out);
}

static void cell_time(FILE *out, double ns)
{
	char buf[32];

	print_time(buf, ns);
	fprintf(out, "<td>%s</td>", buf);
}

static void cell_count(FILE *out, double n)
{
	char buf[32];

	print_count(buf, n);
	fprintf(out, "<td>%s</td>", buf);
}

static void cell_share(FILE *out, double part, double all)
{
	fprintf(out, "<td>%.1f %%</td>", all > 0 ? 100 * part / all : 0.0);
}

static void head(FILE *out, const char *const *names)
{
	fputs("<div class=wide><table><thead><tr>", out);
	for (; *names; names++)
		fprintf(out, "<th>%s</th>", *names);
	fputs("</tr></thead><tbody>\n", out);
}

static void tail(FILE *out)
{
	fputs("</tbody></table></div>\n", out);
}

// --- head of the page -------------------------------------------------------------------------------------

static void write_summary(const struct report *r, FILE *out)
{
	const struct trace_header *h = &r->t->h;
	time_t at = (time_t)(h->realtime / 1000000000);
	char span[32], quantum[32], count[32], lost[200], when[64] = "";
	struct tm tm;

	print_time(span, (double)(r->states.last - r->states.first));
	print_time(quantum, (double)h->quantum);
	print_count(count, (double)r->t->events);
	if (gmtime_r(&at, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
	fprintf(out,
		"<h1>Trace of process %d</h1>\n<p>%s events in %s from %s; %u Ps, policy %s, "
		"quantum "
		"%s, %zu threads.</p>\n<p class=%s>Events: %s.</p>\n",
		h->pid, count, span, when, h->procs, trace_policy(h), quantum, r->states.n,
		r->t->lost ? "bad" : "dim", trace_lost_text(r->t, lost));
	if (!(h->state & TRACE_SETTLED))
		fputs("<p class=dim>The process had not come to its end: it ran on, or was "
		      "killed.</p>\n",
		      out);
}

static void write_timeline(const struct report *r, FILE *out)
{
	static const struct {
		const char *colour, *name;
	} key[] = {{"#3fa34d", "running"},   {"#7fc98a", "running without a P"},
		   {"#e0a63a", "runnable"},  {"#8a6fc9", "waiting"},
		   {"#4d8fd6", "in a call"}, {"#9aa3ad", "starting, or many short pieces"}};

	fputs("<h2>Timeline</h2>\n<p class=dim>Wheel: zoom; drag: move. <button id=in>+</button> "
	      "<button id=out>&minus;</button> <button id=all>all</button></p>\n"
	      "<div id=box><div id=rows><canvas id=tl></canvas></div><div id=tip></div></div>\n<p "
	      "class=\"key dim\">",
	      out);
	for (size_t i = 0; i < sizeof(key) / sizeof(*key); i++)
		fprintf(out, "<span><i style=\"background:%s\"></i>%s</span>", key[i].colour,
			key[i].name);
	fputs("<span>Ps: a colour for each thread</span></p>\n<noscript><p>The timeline needs "
	      "JavaScript; all figures are below.</p></noscript>\n",
	      out);
	(void)r;
}

// --- figures -----------------------------------------------------------------------------------------------

static void write_times(const struct report *r, FILE *out)
{
	static const char *const names[] = {"",	   "number", "mean",	"median",
					    "p90", "p99",    "longest", NULL};

	fputs("<h2>Times</h2>\n", out);
	head(out, names);
	for (int i = 0; i < TIMES_KINDS; i++) {
		const struct times *t = &r->times[i];

		fputs("<tr>", out);
		cell_text(out, times_names[i][1]);
		cell_count(out, (double)t->n);
		cell_time(out, t->n ? (double)t->sum / (double)t->n : 0);
		cell_time(out, (double)times_quantile(t, 0.5));
		cell_time(out, (double)times_quantile(t, 0.9));
		cell_time(out, (double)times_quantile(t, 0.99));
		cell_time(out, (double)t->max);
		fputs("</tr>\n", out);
	}
	tail(out);
}

// A bar for each power of two from 256 ns on.
static void write_histogram(const struct times *t, const char *name, FILE *out)
{
	enum { BARS = 26, FIRST = 8, W = 14, HIGH = 90 };
	uint64_t bars[BARS] = {0}, most = 1;

	for (unsigned i = 0; i < TIMES_BUCKETS; i++) {
		int bar = (int)(i / 8) + 2 - FIRST; // of the power of two

		bar = bar < 0 ? 0 : bar >= BARS ? BARS - 1 : bar;
		bars[bar] += t->bucket[i];
		if (bars[bar] > most)
			most = bars[bar];
	}
	fprintf(out, "<figure><figcaption>");
	text(out, name);
	fprintf(out, "</figcaption><svg viewBox=\"0 0 %d %d\" role=img>", BARS * W, HIGH + 16);
	for (int i = 0; i < BARS; i++) {
		double high = bars[i] ? 1 + (HIGH - 6) * (double)bars[i] / (double)most : 0;
		char time[32];

		if (bars[i]) {
			print_time(time, (double)((uint64_t)1 << (i + FIRST)));
			fprintf(out,
				"<rect x=%d y=%.1f width=%d height=%.1f><title>from %s: "
				"%lu</title></rect>",
				i * W + 1, HIGH - high, W - 2, high, time, (unsigned long)bars[i]);
		}
		if (i % 5 == 0) {
			print_time(time, (double)((uint64_t)1 << (i + FIRST)));
			fprintf(out, "<text x=%d y=%d>%s</text>", i * W, HIGH + 12, time);
		}
	}
	fputs("</svg></figure>\n", out);
}

static void write_histograms(const struct report *r, FILE *out)
{
	fputs("<h2>Histograms</h2>\n<div class=grid>\n", out);
	for (int i = 0; i < TIMES_KINDS; i++)
		if (r->times[i].n)
			write_histogram(&r->times[i], times_names[i][1], out);
	fputs("</div>\n", out);
}

static void write_ps(const struct report *r, FILE *out)
{
	static const char *const names[] = {"", "held by threads", "share", NULL};
	double all = (double)(r->states.last - r->states.first);

	fputs("<h2>Ps</h2>\n", out);
	head(out, names);
	for (uint32_t p = 0; p < r->states.nps; p++) {
		if (!r->ps[p].n && p >= r->t->h.procs)
			continue;
		fprintf(out, "<tr><td>P %u</td>", p);
		cell_time(out, (double)r->p_ns[p]);
		cell_share(out, (double)r->p_ns[p], all);
		fputs("</tr>\n", out);
	}
	tail(out);
}

static void write_counts(const struct report *r, FILE *out)
{
	static const char *const names[] = {"", "number", NULL};
	const struct {
		const char *name;
		uint64_t n;
	} rows[] = {
		{"Threads made", r->kinds[TRACE_GO_CREATE]},
		{"A thread was given a P", r->kinds[TRACE_GO_START]},
		{"Ran on without a P", r->kinds[TRACE_GO_CREDIT]},
		{"Waits", r->kinds[TRACE_GO_BLOCK]},
		{"Asked to yield", r->kinds[TRACE_ASK]},
		{"Preempted at an interposed call", r->preempted[TRACE_COOPERATIVE]},
		{"Preempted by signal, at a safe point", r->preempted[TRACE_ASYNC]},
		{"Preempted by signal, where it was", r->preempted[TRACE_FORCED]},
		{"Yields", r->kinds[TRACE_GO_SCHED]},
		{"Yields of spinning threads", r->kinds[TRACE_SPIN]},
		{"Signals sent", r->kinds[TRACE_SIGNAL]},
		{"Signals refused: not a safe point", r->kinds[TRACE_REFUSE]},
		{"Calls that keep the P", r->kinds[TRACE_SYSCALL_BEGIN]},
		{"Calls that hand it on", r->kinds[TRACE_SYSCALL_BLOCK]},
		{"Came back without a P", r->kinds[TRACE_SYSCALL_BLOCKED]},
		{"Ps retaken in system calls", r->retaken[0]},
		{"Ps retaken, asleep unseen", r->retaken[1]},
		{"Hand-offs", r->kinds[TRACE_HANDOFF]},
	};

	fputs("<h2>Events</h2>\n", out);
	head(out, names);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		if (!rows[i].n)
			continue;
		fputs("<tr>", out);
		cell_text(out, rows[i].name);
		cell_count(out, (double)rows[i].n);
		fputs("</tr>\n", out);
	}
	tail(out);
}

static const char *name_of_tid(const struct report *r, uint32_t tid, char buf[80])
{
	for (size_t i = 0; tid && i < r->states.n; i++)
		if (r->states.v[i]->tid == tid)
			return trace_label(r->t, r->states.v[i], buf);
	return "";
}

static void write_locks(const struct report *r, FILE *out)
{
	static const char *const names[] = {"object", "kind",	 "waits",      "waited",
					    "mean",   "longest", "last owner", NULL};
	const struct site **list = sites_sorted(&r->locks);
	size_t n = 0;
	char buf[80];

	fputs("<h2 id=locks>Locks and other objects that were waited for</h2>\n", out);
	head(out, names);
	for (; n < ROWS_MAX && list[n]; n++) {
		fputs("<tr>", out);
		cell_text(out, trace_name(r->t, list[n]->addr, false));
		cell_text(out, trace_waits[list[n]->kind]);
		cell_count(out, (double)list[n]->n);
		cell_time(out, (double)list[n]->ns);
		cell_time(out, (double)list[n]->ns / (double)list[n]->n);
		cell_time(out, (double)list[n]->max);
		cell_text(out, name_of_tid(r, list[n]->last_owner, buf));
		fputs("</tr>\n", out);
	}
	tail(out);
	if (list[n])
		fprintf(out, "<p class=dim>And %zu more.</p>\n", r->locks.n - n);
	else if (!n)
		fputs("<p class=dim>None.</p>\n", out);
	free(list);
}

static void write_spins(const struct report *r, FILE *out)
{
	static const char *const names[] = {"place", "found by", "yields", NULL};
	static const char *const kinds[] = {"sample", "rewritten PAUSE", "pthread_spin_lock",
					    "other"};
	const struct site **list = sites_sorted(&r->spins);
	size_t n = 0;

	fputs("<h2 id=spins>Where threads spin</h2>\n", out);
	head(out, names);
	for (; n < ROWS_MAX && list[n]; n++) {
		fputs("<tr>", out);
		cell_text(out, trace_name(r->t, list[n]->addr, list[n]->kind != TRACE_SPIN_LOCK));
		cell_text(out, kinds[list[n]->kind & 3]);
		cell_count(out, (double)list[n]->n);
		fputs("</tr>\n", out);
	}
	tail(out);
	if (list[n])
		fprintf(out, "<p class=dim>And %zu more.</p>\n", r->spins.n - n);
	else if (!n)
		fputs("<p class=dim>No yields of spinning threads.</p>\n", out);
	free(list);
}

static void write_threads(const struct report *r, FILE *out)
{
	static const char *const names[] = {"thread",	 "tid",	   "ran",      "without P",
					    "runnable",	 "waited", "in calls", "switches",
					    "preempted", "yields", "waits",    NULL};
	size_t n, i;
	struct trace_thread **list = threads_sorted(r, &n);
	char label[80];

	fputs("<h2 id=threads>Threads</h2>\n", out);
	head(out, names);
	for (i = 0; i < n && i < ROWS_MAX * 5; i++) {
		const struct trace_thread *th = list[i];

		fputs("<tr>", out);
		cell_text(out, trace_label(r->t, th, label));
		fprintf(out, "<td>%u</td>", th->tid);
		cell_time(out, (double)th->ns[THREAD_RUNNING]);
		cell_time(out, (double)th->ns[THREAD_CREDIT]);
		cell_time(out, (double)th->ns[THREAD_RUNNABLE]);
		cell_time(out, (double)th->ns[THREAD_BLOCKED]);
		cell_time(out, (double)th->ns[THREAD_CALL]);
		cell_count(out, (double)th->switches);
		cell_count(out, (double)th->preempted);
		cell_count(out, (double)th->yielded);
		cell_count(out, (double)th->blocked);
		fputs("</tr>\n", out);
	}
	tail(out);
	if (i < n)
		fprintf(out, "<p class=dim>And %zu more.</p>\n", n - i);
	free(list);
}

// --- data of the timeline --------------------------------------------------------------------------------------

static void write_track(const struct report *r, const struct track *tr, FILE *out)
{
	fputc('[', out);
	for (size_t i = 0; i < tr->n; i++) {
		const struct piece *p = &tr->v[i];

		fprintf(out, "%s%ld,%ld,%u,%u,%u,%u", i ? "," : "",
			(long)(p->start - r->states.first), (long)(p->end - p->start), p->g, p->n,
			p->state, p->detail);
	}
	fputs("]]", out);
}

static void write_data(const struct report *r, FILE *out)
{
	char label[80];
	bool comma = false;

	fprintf(out, "<script>const D={span:%ld,names:{",
		(long)(r->states.last - r->states.first > 0 ? r->states.last - r->states.first
							    : 1));
	for (size_t i = 0; i < r->states.n; i++) {
		fprintf(out, "%s%u:", i ? "," : "", r->states.v[i]->g);
		json_quote(out, trace_label(r->t, r->states.v[i], label));
	}
	fputs("},waits:[", out);
	for (int i = 0; i < TRACE_WAITS; i++) {
		fputs(i ? "," : "", out);
		json_quote(out, trace_waits[i]);
	}
	fputs("],rows:[", out);
	for (uint32_t p = 0; p < r->states.nps; p++) {
		if (!r->ps[p].n)
			continue;
		fprintf(out, "%s\n[\"P %u\",1,", comma ? "," : "", p);
		write_track(r, &r->ps[p], out);
		comma = true;
	}
	for (size_t i = 0; i < r->states.n && i < TRACKS_MAX; i++) {
		if (!r->threads[i].n)
			continue;
		fprintf(out, "%s\n[", comma ? "," : "");
		json_quote(out, trace_label(r->t, r->states.v[i], label));
		fputs(",0,", out);
		write_track(r, &r->threads[i], out);
		comma = true;
	}
	fputs("]};\n", out);
	fputs(script, out);
	fputs("</script>\n", out);
}

void report_page(const struct report *r, FILE *out)
{
	fprintf(out,
		"<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>\n<meta name=viewport "
		"content=\"width=device-width\">\n<title>Trace of process %d</title>\n",
		r->t->h.pid);
	fputs(style, out);
	fputs("</head><body>\n", out);
	write_summary(r, out);
	write_timeline(r, out);
	write_times(r, out);
	write_histograms(r, out);
	write_locks(r, out);
	write_spins(r, out);
	write_threads(r, out);
	write_ps(r, out);
	write_counts(r, out);
	write_data(r, out);
	fputs("</body></html>\n", out);
}
