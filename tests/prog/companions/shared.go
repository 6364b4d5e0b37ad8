// shared.go: a library in Go, loaded by a program in C (go build -buildmode=c-shared). Goroutines talk over channels and
// wait in C; the C side calls in from many threads.
package main

/*
#include <unistd.h>
static void wait_a_bit(void) { usleep(100); }
*/
import "C"
import "sync"

//export Work
func Work(n C.long) C.long {
	var group sync.WaitGroup
	results := make(chan int64, 4)
	for i := int64(0); i < 8; i++ {
		group.Add(1)
		go func(i int64) {
			defer group.Done()
			sum := int64(0)
			for k := int64(0); k < int64(n); k++ {
				sum += k*i + 1
			}
			C.wait_a_bit()
			results <- sum
		}(i)
	}
	go func() {
		group.Wait()
		close(results)
	}()
	total := int64(0)
	for r := range results {
		total += r
	}
	return C.long(total)
}

func main() {}
