// The programs of this directory in Go: goroutines for threads, channels or package sync for pthread objects. Each takes
// the arguments of the C program of its name and prints the same METRIC lines, so tests/bench/run puts them side by side.
//
// What has no twin has no counterpart: condition variables that are signalled without their mutex, trylock loops, OpenMP, slices
// that can be chosen. Go has no barrier and no semaphore; a mutex with a condition and a channel of one element stand for them, as
// Go programs do it. A spin lock is one that only spins, as in C. churn is the same recurrence, bound by the same multiplication.
//
// usage: twins PROGRAM [ARGS...]
package main

import (
	"fmt"
	"math"
	"math/rand"
	"net"
	"os"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const section = 48 // additions in a critical section, as in spinlock.c and mutex.c

var base = time.Now()

func now() int64 { return int64(time.Since(base)) }

func die(what string, err error) {
	fmt.Fprintln(os.Stderr, "twins:", what, err)
	os.Exit(1)
}

func metric(name string, value float64, unit, better string) {
	fmt.Printf("METRIC %s %.6g %s %s\n", name, value, unit, better)
}

func number(i int, dflt float64) float64 {
	if i+1 >= len(os.Args) {
		return dflt
	}
	v, err := strconv.ParseFloat(os.Args[i+1], 64)
	if err != nil || v <= 0 {
		die("bad argument", err)
	}
	return v
}

func count(i int, dflt int) int { return int(number(i, float64(dflt))) }

func percentile(samples []float64, p float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sort.Float64s(samples)
	return samples[int(math.Min(float64(len(samples)-1), float64(len(samples))*p/100))]
}

//go:noinline
func churn(seed, steps uint64) uint64 {
	for ; steps > 0; steps-- {
		seed = seed*6364136223846793005 + 1442695040888963407
	}
	return seed
}

func churnPerUs() uint64 {
	best := int64(math.MaxInt64)
	for i := uint64(0); i < 20; i++ {
		t := now()
		churn(i, 100000)
		if t = now() - t; t < best {
			best = t
		}
	}
	return uint64(100000*1000/best) + 1
}

// One member of a team, on cache lines of its own.
type worker struct {
	id  int
	ops uint64
	_   [112]byte
}

type team struct {
	workers []worker
	stop    uint32
}

func (t *team) stopped() bool { return atomic.LoadUint32(&t.stop) != 0 }

func (t *team) ops() float64 {
	sum := 0.0
	for i := range t.workers {
		sum += float64(t.workers[i].ops)
	}
	return sum
}

func (t *team) jain() float64 {
	sum, squares := 0.0, 0.0
	for i := range t.workers {
		x := float64(t.workers[i].ops)
		sum += x
		squares += x * x
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(t.workers)) * squares)
}

// All begin together; returns the seconds up to the stop flag. What ends waits comes from unblock.
func (t *team) run(n int, seconds float64, work func(*worker), unblock func()) float64 {
	var ready, done sync.WaitGroup
	gate := make(chan struct{})

	t.workers = make([]worker, n)
	ready.Add(n)
	done.Add(n)
	for i := range t.workers {
		t.workers[i].id = i
		go func(w *worker) {
			ready.Done()
			<-gate
			work(w)
			done.Done()
		}(&t.workers[i])
	}
	ready.Wait()
	start := now()
	close(gate)
	time.Sleep(time.Duration(seconds * 1e9))
	end := now()
	atomic.StoreUint32(&t.stop, 1)
	if unblock != nil {
		unblock()
	}
	done.Wait()
	return float64(end-start) / 1e9
}

type spin struct{ word uint32 }

func (s *spin) Lock() {
	for !atomic.CompareAndSwapUint32(&s.word, 0, 1) {
		for atomic.LoadUint32(&s.word) != 0 {
		}
	}
}

func (s *spin) Unlock() { atomic.StoreUint32(&s.word, 0) }

//go:noinline
func add(p *uint64) { *p++ }

func locked(lock sync.Locker) {
	var t team
	var counter uint64
	elapsed := t.run(count(1, 64), number(2, 1), func(w *worker) {
		for !t.stopped() {
			lock.Lock()
			for i := 0; i < section; i++ {
				add(&counter)
			}
			lock.Unlock()
			w.ops++
		}
	}, nil)
	if float64(counter) != t.ops()*section {
		die("the lock did not exclude", nil)
	}
	metric("ops", t.ops()/elapsed, "ops/s", "higher")
	metric("jain", t.jain(), "index", "higher")
}

func pingpongCond() {
	type pair struct {
		lock sync.Mutex
		cond [2]*sync.Cond
		turn int
		done bool
	}
	n := count(1, 1)
	pairs := make([]pair, n)
	for i := range pairs {
		pairs[i].cond = [2]*sync.Cond{sync.NewCond(&pairs[i].lock), sync.NewCond(&pairs[i].lock)}
	}
	var t team
	elapsed := t.run(2*n, number(2, 1), func(w *worker) {
		p, me := &pairs[w.id/2], w.id%2
		p.lock.Lock()
		for {
			for p.turn != me && !p.done {
				p.cond[me].Wait()
			}
			if t.stopped() {
				p.done = true
			}
			p.turn = 1 - me
			p.cond[1-me].Signal()
			if p.done {
				break
			}
			w.ops += uint64(me)
		}
		p.lock.Unlock()
	}, nil)
	metric("roundtrips", t.ops()/elapsed, "ops/s", "higher")
}

func pingpongSem() {
	n := count(1, 1)
	sems := make([][2]chan struct{}, n)
	for i := range sems {
		sems[i] = [2]chan struct{}{make(chan struct{}, 4), make(chan struct{}, 4)}
		sems[i][0] <- struct{}{}
	}
	var t team
	elapsed := t.run(2*n, number(2, 1), func(w *worker) {
		s, me := sems[w.id/2], w.id%2
		for !t.stopped() {
			<-s[me]
			s[1-me] <- struct{}{}
			w.ops += uint64(me)
		}
		s[1-me] <- struct{}{}
	}, nil)
	metric("roundtrips", t.ops()/elapsed, "ops/s", "higher")
}

func socketpair(kind int) [2]net.Conn {
	var conn [2]net.Conn
	fd, err := syscall.Socketpair(syscall.AF_UNIX, kind, 0)
	if err != nil {
		die("socketpair", err)
	}
	for i := range conn {
		f := os.NewFile(uintptr(fd[i]), "pair")
		if conn[i], err = net.FileConn(f); err != nil {
			die("socketpair", err)
		}
		f.Close()
	}
	return conn
}

func pingpongSocket() {
	n := count(1, 1)
	pairs := make([][2]net.Conn, n)
	for i := range pairs {
		pairs[i] = socketpair(syscall.SOCK_STREAM)
	}
	var t team
	elapsed := t.run(2*n, number(2, 1), func(w *worker) {
		c, me := pairs[w.id/2][w.id%2], w.id%2
		byte1 := []byte{'x'}
		give := func() {
			if _, err := c.Write(byte1); err != nil {
				die("write", err)
			}
		}
		if me == 0 {
			give()
		}
		for !t.stopped() {
			if _, err := c.Read(byte1); err != nil {
				die("read", err)
			}
			give()
			w.ops += uint64(me)
		}
		give()
	}, nil)
	metric("roundtrips", t.ops()/elapsed, "ops/s", "higher")
}

type barrier struct {
	sync.Mutex
	cond     *sync.Cond
	n, round int
	here     int
}

func (b *barrier) wait() {
	b.Lock()
	if b.here++; b.here == b.n {
		b.here = 0
		b.round++
		b.cond.Broadcast()
	} else {
		for round := b.round; round == b.round; {
			b.cond.Wait()
		}
	}
	b.Unlock()
}

func barriers() {
	n, limit, rounds := count(1, 16), number(2, 1), count(3, 200)
	b := &barrier{n: n}
	b.cond = sync.NewCond(b)
	var batches []float64
	var last bool // written by worker 0 before a barrier, read by the others after it
	var t team
	t.run(n, 0, func(w *worker) {
		for first := now(); !last; {
			start := now()
			for i := 0; i < rounds; i++ {
				b.wait()
			}
			if w.id == 0 {
				end := now()
				batches = append(batches, float64(end-start)/1e3/float64(rounds))
				last = float64(end-first)/1e9 > limit
			}
			b.wait()
		}
	}, nil)
	metric("round", percentile(batches, 50), "us", "lower")
}

func timeBatches(name string, fn func(n int), batch int, seconds float64, unit string, ns float64) {
	var samples []float64
	first := now()
	for {
		start := now()
		fn(batch)
		end := now()
		samples = append(samples, float64(end-start)/float64(batch)/ns)
		if float64(end-first)/1e9 > seconds {
			break
		}
	}
	sum := 0.0
	for _, s := range samples {
		sum += s
	}
	metric(name+"_median", percentile(samples, 50), unit, "lower")
	metric(name+"_mean", sum/float64(len(samples)), unit, "lower")
}

func createJoin() {
	timeBatches("thread", func(n int) {
		for ; n > 0; n-- {
			done := make(chan struct{})
			go close(done)
			<-done
		}
	}, 20, number(1, 1), "us", 1000)
}

func mutexPair() {
	var lock sync.Mutex
	timeBatches("pair", func(n int) {
		for ; n > 0; n-- {
			lock.Lock()
			lock.Unlock()
		}
	}, 1000, number(1, 1), "ns", 1)
}

func pipeByte() {
	r, w, err := os.Pipe()
	if err != nil {
		die("pipe", err)
	}
	buf := []byte{'x'}
	timeBatches("byte", func(n int) {
		for ; n > 0; n-- {
			if _, err := w.Write(buf); err != nil {
				die("pipe", err)
			}
			if _, err := r.Read(buf); err != nil {
				die("pipe", err)
			}
		}
	}, 100, number(1, 1), "ns", 1)
}

func busy() {
	var t team
	elapsed := t.run(count(1, 2), number(2, 1), func(w *worker) {
		for !t.stopped() {
			churn(w.ops, 2000)
			w.ops++
		}
	}, nil)
	metric("work", t.ops()/elapsed, "units/s", "higher")
	metric("jain", t.jain(), "index", "higher")
}

func lateness() {
	const sleepUs, workUs = 1000, 200
	var late, turn []float64
	var t team
	perUs := churnPerUs()
	elapsed := t.run(count(1, 16)+1, number(2, 1), func(w *worker) {
		for w.id == 0 && !t.stopped() {
			start := now()
			time.Sleep(sleepUs * time.Microsecond)
			woken := now()
			churn(uint64(woken), workUs*perUs)
			late = append(late, float64(woken-start)/1e3-sleepUs)
			turn = append(turn, float64(now()-start)/1e3)
		}
		for w.id != 0 && !t.stopped() {
			churn(w.ops, perUs)
			w.ops++
		}
	}, nil)
	metric("late_p50", percentile(late, 50), "us", "lower")
	metric("late_p99", percentile(late, 99), "us", "lower")
	metric("turn_p99", percentile(turn, 99), "us", "lower")
	metric("hogs", t.ops()/elapsed, "units/s", "higher")
}

func switches() {
	const yielding = 10
	n := count(1, 10)
	end := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(n)
	for i := 0; i < n; i++ {
		go func() {
			waiting.Done()
			<-end
		}()
	}
	waiting.Wait()
	var t team
	elapsed := t.run(yielding, number(2, 1), func(w *worker) {
		for !t.stopped() {
			runtime.Gosched()
			w.ops++
		}
	}, nil)
	metric("switch", elapsed*1e9/t.ops(), "ns", "lower")
	close(end)
}

func messages() {
	const senders, workUs = 2, 5000
	type member struct {
		wake  *sync.Cond
		sent  int64
		ready bool
		late  []float64
	}
	type group struct {
		lock  sync.Mutex
		news  *sync.Cond
		ready int
		end   bool
	}
	n := count(1, 8)
	groups := make([]group, senders)
	state := make([]member, n)
	for i := range groups {
		groups[i].news = sync.NewCond(&groups[i].lock)
	}
	for i := range state {
		state[i].wake = sync.NewCond(&groups[i%senders].lock)
	}
	perUs := churnPerUs()
	var t team
	send := func(id int, g *group) {
		g.lock.Lock()
		for {
			for g.ready == 0 && !g.end {
				g.news.Wait()
			}
			if g.end {
				break
			}
			for i := id; i < n; i += senders {
				if s := &state[i]; s.ready {
					s.ready = false
					g.ready--
					s.sent = now()
					s.wake.Signal()
				}
			}
		}
		g.lock.Unlock()
	}
	workOn := func(w *worker, s *member, g *group) {
		g.lock.Lock()
		for {
			s.sent, s.ready = 0, true
			g.ready++
			g.news.Signal()
			for s.sent == 0 && !g.end {
				s.wake.Wait()
			}
			if g.end {
				break
			}
			sent := s.sent
			g.lock.Unlock()
			s.late = append(s.late, float64(now()-sent)/1e3)
			churn(uint64(sent), workUs*perUs)
			w.ops++
			g.lock.Lock()
		}
		g.lock.Unlock()
	}
	elapsed := t.run(senders+n, number(2, 2), func(w *worker) {
		if w.id < senders {
			send(w.id, &groups[w.id])
		} else {
			workOn(w, &state[w.id-senders], &groups[w.id%senders])
		}
	}, func() {
		for i := range groups {
			g := &groups[i]
			g.lock.Lock()
			g.end = true
			g.news.Signal()
			for k := i; k < n; k += senders {
				state[k].wake.Signal()
			}
			g.lock.Unlock()
		}
	})
	var all []float64
	for i := range state {
		all = append(all, state[i].late...)
	}
	metric("wake_p50", percentile(all, 50), "us", "lower")
	metric("wake_p99", percentile(all, 99), "us", "lower")
	metric("rate", t.ops()/elapsed, "ops/s", "higher")
}

func keyvalue() {
	const shortUs, longUs, load = 10, 1000, 80
	threads, seconds, cpus := count(1, 64), number(2, 3), count(3, runtime.NumCPU())
	perUs := churnPerUs()
	conns := make([][2]net.Conn, threads)
	for i := range conns {
		conns[i] = socketpair(syscall.SOCK_SEQPACKET)
	}
	slow := make([][2][]float64, threads)
	random := rand.New(rand.NewSource(88172645463325252))
	begin := now() + 100000000
	end := begin + int64(seconds*1e9)
	send := func(c net.Conn, due, us int64) {
		var b [16]byte
		for i := 0; i < 8; i++ {
			b[i], b[8+i] = byte(due>>(8*i)), byte(us>>(8*i))
		}
		if _, err := c.Write(b[:]); err != nil {
			die("write", err)
		}
	}
	var t team
	t.run(threads+1, 0, func(w *worker) {
		if w.id == threads {
			mean := (shortUs + longUs) / 2.0 * 1e3 / (float64(cpus) * load / 100)
			for due := float64(begin); due < float64(end); {
				due += random.ExpFloat64() * mean
				us := int64(longUs)
				if random.Float64() < 0.5 {
					us = shortUs
				}
				if wait := int64(due) - now(); wait > 0 {
					time.Sleep(time.Duration(wait))
				}
				send(conns[random.Intn(threads)][0], int64(due), us)
			}
			for i := range conns {
				send(conns[i][0], 0, 0)
			}
			return
		}
		var b [16]byte
		for {
			var due, us int64
			if n, err := conns[w.id][1].Read(b[:]); n != 16 || err != nil {
				die("read", err)
			}
			for i := 7; i >= 0; i-- {
				due, us = due<<8|int64(b[i]), us<<8|int64(b[8+i])
			}
			if due == 0 {
				break
			}
			kind := 0
			if us == longUs {
				kind = 1
			}
			churn(uint64(due), uint64(us)*perUs)
			slow[w.id][kind] = append(slow[w.id][kind], float64(now()-due)/1e3/float64(us))
			w.ops++
		}
	}, nil)
	var all [2][]float64
	for i := range slow {
		for k := range all {
			all[k] = append(all[k], slow[i][k]...)
		}
	}
	metric("short_p50", percentile(all[0], 50), "times", "lower")
	metric("short_p999", percentile(all[0], 99.9), "times", "lower")
	metric("long_p99", percentile(all[1], 99), "times", "lower")
	metric("rate", t.ops()/seconds, "ops/s", "higher")
}

func main() {
	programs := map[string]func(){
		"spinlock": func() { locked(new(spin)) }, "mutex": func() { locked(new(sync.Mutex)) },
		"pingpong_cond": pingpongCond, "pingpong_sem": pingpongSem, "pingpong_socket": pingpongSocket,
		"barrier": barriers, "create_join": createJoin, "mutex_pair": mutexPair, "pipe_byte": pipeByte,
		"busy": busy, "lateness": lateness, "switch": switches, "messages": messages, "keyvalue": keyvalue,
	}
	if len(os.Args) > 1 {
		if run, ok := programs[os.Args[1]]; ok {
			run()
			return
		}
	}
	fmt.Fprintln(os.Stderr, "usage: twins PROGRAM [ARGS...]")
	os.Exit(2)
}
