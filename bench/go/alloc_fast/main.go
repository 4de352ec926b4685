// The Go twin of bench/alloc_fast.c: 16-byte objects with a pointer, linked.
package main

import (
	"flag"
	"runtime"
	"runtime/debug"
	"sort"
	"time"

	"wane/bench/report"
)

var (
	batch   = flag.Int("batch", 8192, "objects in one timed batch")
	batches = flag.Int("batches", 1000, "timed batches")
)

type link struct {
	next   *link
	unused uint64
}

var list *link

func allocate() float64 {
	start := time.Now()
	var head *link
	for i := 0; i < *batch; i++ {
		head = &link{next: head}
	}
	list = head
	return float64(time.Since(start).Nanoseconds()) / float64(*batch)
}

func main() {
	debug.SetGCPercent(-1)
	report.Start("alloc_fast")
	var made, collected []float64
	for i := -*batches / 10; i < *batches; i++ {
		ns := allocate()
		list = nil
		start := time.Now()
		runtime.GC()
		if i >= 0 {
			made = append(made, ns)
			collected = append(collected,
				float64(time.Since(start).Nanoseconds())/float64(*batch))
		}
	}
	report.Stop()
	sort.Float64s(made)
	sort.Float64s(collected)
	report.Set("size", 16)
	report.Set("batches_used", len(made))
	report.Set("alloc_ns", made[len(made)/2])
	report.Set("alloc_min_ns", made[0])
	report.Set("collect_ns", collected[len(collected)/2])
	report.End()
}
