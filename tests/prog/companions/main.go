// main.go: a Go program that uses C, so libc starts its threads. Goroutines, a system call each, signals, a child process.
package main

/*
#include <pthread.h>
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static long n;
static void count(void) { pthread_mutex_lock(&m); n++; pthread_mutex_unlock(&m); }
static long counted(void) { return n; }
*/
import "C"
import (
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

func main() {
	var group sync.WaitGroup
	usr1 := make(chan os.Signal, 10)
	signal.Notify(usr1, syscall.SIGUSR1)
	for i := 0; i < 32; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for k := 0; k < 20; k++ {
				C.count()
				time.Sleep(10 * time.Microsecond)
				x := 0
				for j := 0; j < 100000; j++ {
					x += j
				}
			}
		}()
	}
	if err := exec.Command("true").Run(); err != nil {
		panic(err)
	}
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	<-usr1
	group.Wait()
	if C.counted() != 32*20 {
		os.Exit(1)
	}
	os.Stdout.WriteString("OK\n")
}
