#!/usr/bin/env python3
"""probes.py PREEMPT LIBRARY PROGS CASE: probes for bpftrace and perf."""

import re
import shutil

from tool import *

# Number of arguments, and of places.
PROBES = {"go_start": (3, 1), "go_block": (3, 1), "go_unblock": (2, 1), "go_preempt": (3, 3), "retake": (3, 2),
          "handoff": (1, 1), "spin_yield": (3, 3), "stw": (2, 2)}


def notes():
    out = subprocess.run(["readelf", "-n", LIBRARY], env=env, text=True, check=True, stdout=subprocess.PIPE).stdout
    found = re.findall(r"Provider: preempt\n\s+Name: (\S+)\n\s+Location: \S+ Base: \S+ Semaphore: (\S+)\n\s+Arguments: (.*)", out)
    if not found:
        raise Skip("built without sys/sdt.h (systemtap-sdt-dev)")
    return found


def case_notes():
    """Every probe is in the library, with the arguments that the manual tells of, and without semaphores."""
    places = {}
    for name, semaphore, arguments in notes():
        assert int(semaphore, 16) == 0, name
        assert len(re.findall(r"-?[1248]@", arguments)) == PROBES[name][0], (name, arguments)
        places[name] = places.get(name, 0) + 1
    # The compiler may copy a place, not drop it.
    assert set(places) == set(PROBES) and all(places[n] >= PROBES[n][1] for n in places), places
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    page = read(os.path.join(root, "man/libpreempt.7"))
    assert all(f".B {n.replace('_', chr(92) + '_')}" in page or f".B {n}" in page for n in PROBES)


def case_bpftrace():
    """The example runs, and tells of threads that block and are preempted."""
    notes()
    if not shutil.which("bpftrace"):
        raise Skip("no bpftrace")
    if os.geteuid() != 0:
        raise Skip("bpftrace needs root")
    trial = subprocess.run(["bpftrace", "-e", "BEGIN { exit(); }"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if trial.returncode or "ERROR" in trial.stdout:
        raise Skip(f"bpftrace does not work on this kernel: {trial.stdout.strip()[-200:]}")
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    text = write("p.bt", read(os.path.join(root, "examples/preempt.bt")).replace("LIBPREEMPT", LIBRARY))
    prog = compiled("blocks", """
        #include <pthread.h>
        static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
        static void *work(void *arg)
        {
            for (int i = 0; i < 2000; i++) {
                pthread_mutex_lock(&m);
                for (volatile int k = 0; k < 20000; k++)
                    ;
                pthread_mutex_unlock(&m);
            }
            return arg;
        }
        int main(void)
        {
            pthread_t t[4];
            for (int i = 0; i < 4; i++)
                pthread_create(&t[i], NULL, work, NULL);
            for (int i = 0; i < 4; i++)
                pthread_join(t[i], NULL);
            return 0;
        }""", "-pthread")
    p = subprocess.run(["bpftrace", text, "-c", f"/usr/bin/env LD_PRELOAD={LIBRARY} PREEMPT_QUANTUM=1ms {prog}"], text=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100, env=env, cwd=tmp)
    if "@blocked_us[1]" not in p.stdout and re.search(r"ERROR|not support|Operation not permitted|uprobe", p.stdout):
        raise Skip(f"no uprobes here: {p.stdout.strip()[-200:]}")
    assert "@blocked_us[1]" in p.stdout and "@preempted[" in p.stdout, p.stdout


if __name__ == "__main__":
    main(globals())
