// async.c in Go: goroutines that compute, and how late each is stopped when its slice is over.
//
// Go's slice is fixed at 10 ms, so the numbers to compare are those beyond the slice, not the turns. Go counts the slice
// from the moment its sysmon first sees the goroutine run, which looks every 10 ms when nothing blocks; what a goroutine
// sees, and all that it can see from inside, is the whole turn. The rules for gaps and turns are those of async.c.
//
// usage: async_go [GOROUTINES] [SECONDS] [SLICE_US] [PROCS]
package main

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const chunk = 5 // us

var base = time.Now()

func now() int64 { return int64(time.Since(base)) }

//go:noinline
func churn(seed, steps uint64) uint64 {
	for ; steps > 0; steps-- {
		seed = seed*6364136223846793005 + 1442695040888963407
	}
	return seed
}

func churnPerUs() uint64 {
	best := int64(1 << 62)
	for i := uint64(0); i < 20; i++ {
		t := now()
		churn(i, 100000)
		if t = now() - t; t < best {
			best = t
		}
	}
	return uint64(100000*1000/best) + 1
}

func arg(i int, dflt float64) float64 {
	if i >= len(os.Args) {
		return dflt
	}
	v, err := strconv.ParseFloat(os.Args[i], 64)
	if err != nil || v <= 0 {
		fmt.Fprintln(os.Stderr, "async_go: bad argument", os.Args[i])
		os.Exit(1)
	}
	return v
}

func percentile(sorted []float64, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)*p/100]
}

func main() {
	n := int(arg(1, 8))
	seconds, slice, procs := arg(2, 10), int64(arg(3, 10000)*1000), int(arg(4, 2))
	gap := int64(n-procs) * slice / int64(procs) / 2
	steps := churnPerUs() * chunk
	late := make([][]float64, n)
	var stop uint32
	var wg sync.WaitGroup

	runtime.GOMAXPROCS(procs)
	for i := range late {
		wg.Add(1)
		go func(i int) {
			var begun int64
			seed, last := uint64(i), now()
			for atomic.LoadUint32(&stop) == 0 {
				seed = churn(seed, steps)
				t := now()
				if t-last > gap {
					turn := last - begun
					if begun != 0 && float64(turn) > 0.9*float64(slice) {
						late[i] = append(late[i], float64(turn-slice)/1e3)
					}
					begun = t
				}
				last = t
			}
			wg.Done()
		}(i)
	}
	time.Sleep(time.Duration(seconds * 1e9))
	atomic.StoreUint32(&stop, 1)
	wg.Wait()

	var all []float64
	for _, l := range late {
		all = append(all, l...)
	}
	sort.Float64s(all)
	fmt.Printf("METRIC turns %d turns higher\n", len(all))
	fmt.Printf("METRIC late_p50 %.6g us lower\n", percentile(all, 50))
	fmt.Printf("METRIC late_p99 %.6g us lower\n", percentile(all, 99))
}
