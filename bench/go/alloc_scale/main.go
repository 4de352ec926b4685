// The Go twin of bench/alloc_scale.c: goroutines for threads, slices of
// pointers for objects that may hold pointers.
package main

import (
	"flag"
	"sync"
	"time"

	"wane/bench/report"
)

const ring = 1024

var (
	threads = flag.Int("threads", 1, "goroutines at the same time")
	count   = flag.Int("count", 20000000, "objects for each")
	seed    = flag.Uint64("seed", 1, "seed of the sizes")
)

// One object per size of the C program: a number, and words that may hold
// pointers. The number is kept as a pointer into this array.
var numbers [ring]byte

func allocate(random report.Random) (check uint64) {
	var held [ring][]*byte
	for i := 0; i < *count; i++ {
		slot := &held[i%ring]
		if *slot != nil && (*slot)[0] == &numbers[i%ring] {
			check += uint64(i - ring)
		}
		*slot = make([]*byte, 2*(1+random.Next()%8))
		(*slot)[0] = &numbers[i%ring]
	}
	return check
}

func main() {
	report.Start("alloc_scale")
	results := make([]uint64, *threads)
	begin := time.Now()
	var done sync.WaitGroup
	for i := range results {
		done.Add(1)
		go func(i int) {
			results[i] = allocate(report.Random(*seed + uint64(i)))
			done.Done()
		}(i)
	}
	done.Wait()
	seconds := time.Since(begin).Seconds()
	report.Stop()
	var check uint64
	for _, result := range results {
		check += result
	}
	report.Set("allocations_per_s", float64(*threads**count)/seconds)
	report.Set("check", check)
	report.End()
}
