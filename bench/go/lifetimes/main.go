//go:build go1.24

// The Go twin of bench/lifetimes.c: runtime.AddCleanup, runtime.SetFinalizer
// and package weak, with GOGC off as the C program has cycles off.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
	"weak"

	"wane/bench/report"
)

const (
	slack    = 8
	hotReads = 10
	waitStep = 50 * time.Microsecond
	waitEnd  = time.Minute
)

var (
	what   = flag.String("what", "cleanup", "cleanup, finalizer, weak, offsets")
	count  = flag.Int("count", 1000000, "objects")
	rounds = flag.Int("rounds", 5, "rounds of reading and of offsets")
)

// An object is 32 bytes that may hold pointers.
type object struct {
	unused [3]*byte
	last   *atomic.Int64
}

var (
	called atomic.Int64
	table  []*object
)

func onCleanup(counter *atomic.Int64) { counter.Add(1) }
func onDeath(*object)                 { called.Add(1) }

func attach(o *object) {
	if *what == "cleanup" {
		runtime.AddCleanup(o, onCleanup, &called)
	} else {
		runtime.SetFinalizer(o, onDeath)
	}
}

//go:noinline
func objectsMake(n int) {
	table = make([]*object, n)
	for i := range table {
		table[i] = &object{last: &called}
	}
}

//go:noinline
func objectsDrop() {
	clear(table)
	table = nil
}

func warmUp() {
	objectsMake(1000)
	for _, o := range table {
		if *what == "cleanup" || *what == "finalizer" {
			attach(o)
		} else {
			weak.Make(o)
		}
	}
}

func nearly(value, n int) int {
	if value+slack >= n && value <= n {
		return n
	}
	return value
}

func nsEach(since time.Time, n int) float64 {
	return float64(time.Since(since).Nanoseconds()) / float64(n)
}

func setAttached(start time.Time, before, n int) {
	report.Set("attach_ns", nsEach(start, n))
	report.Set("bytes_each", float64(report.RSS()-before)/float64(n))
}

//go:noinline
func attachAll(n int) {
	before := report.RSS()
	start := time.Now()
	for _, o := range table {
		attach(o)
	}
	setAttached(start, before, n)
}

func callbacks(n int) int {
	warmUp()
	objectsDrop()
	runtime.GC()
	for called.Load()+slack < 1000 {
		time.Sleep(waitStep)
	}
	objectsMake(n)
	attachAll(n)
	objectsDrop()
	time.Sleep(10 * time.Millisecond)
	called.Store(0)
	start := time.Now()
	runtime.GC()
	report.Set("collect_s", time.Since(start).Seconds())
	for called.Load()+slack < int64(n) && time.Since(start) < waitEnd {
		time.Sleep(waitStep)
	}
	report.Set("run_s", time.Since(start).Seconds())
	time.Sleep(10 * time.Millisecond)
	return nearly(int(called.Load()), n)
}

//go:noinline
func readAll[T any](handles []weak.Pointer[T]) (alive int) {
	for _, handle := range handles {
		if handle.Value() != nil {
			alive++
		}
	}
	return alive
}

//go:noinline
func readOne(handle weak.Pointer[object], n int) (alive int) {
	for i := 0; i < n; i++ {
		if handle.Value() != nil {
			alive++
		}
	}
	return alive
}

func readRounds(handles []weak.Pointer[object]) (alive int) {
	n := len(handles)
	all := make([]float64, *rounds)
	one := make([]float64, *rounds)
	for i := range all {
		start := time.Now()
		alive += readAll(handles)
		all[i] = nsEach(start, n)
		start = time.Now()
		alive += readOne(handles[n/2], n*hotReads)
		one[i] = nsEach(start, n*hotReads)
	}
	report.Set("read_ns", report.Median(all))
	report.Set("read_hot_ns", report.Median(one))
	return alive
}

//go:noinline
func makeAll(handles []weak.Pointer[object]) {
	before := report.RSS()
	start := time.Now()
	for i, o := range table {
		handles[i] = weak.Make(o)
	}
	setAttached(start, before, len(handles))
}

func weakPointers(n int) int {
	handles := make([]weak.Pointer[object], n)
	warmUp()
	first := weak.Make(table[0])
	for i := range handles { // so that its memory is not counted
		handles[i] = first
	}
	objectsMake(n)
	makeAll(handles)
	alive := readRounds(handles)
	objectsDrop()
	runtime.GC()
	start := time.Now()
	dead := n - readAll(handles)
	report.Set("read_dead_ns", nsEach(start, n))
	return alive + nearly(dead, n)
}

func offsets(n int) (alive int) {
	apart := make([]float64, *rounds)
	together := make([]float64, *rounds)
	ratios := make([]float64, *rounds)
	handles := make([]weak.Pointer[object], n)
	inner := make([]weak.Pointer[*byte], n)
	warmUp()
	for round := range apart {
		objectsMake(n)
		big := make([]*byte, n)
		start := time.Now()
		for i, o := range table {
			handles[i] = weak.Make(o)
		}
		apart[round] = nsEach(start, n)
		start = time.Now()
		for i := range big {
			inner[i] = weak.Make(&big[i])
		}
		together[round] = nsEach(start, n)
		ratios[round] = together[round] / apart[round]
		alive += readAll(handles) + readAll(inner)
		runtime.KeepAlive(big)
	}
	report.Set("apart_ns", report.Median(apart))
	report.Set("together_ns", report.Median(together))
	report.Set("ratio", report.Median(ratios))
	return alive
}

func main() {
	debug.SetGCPercent(-1)
	report.Start("lifetimes")
	var check int
	switch *what {
	case "cleanup", "finalizer":
		check = callbacks(*count)
	case "weak":
		check = weakPointers(*count)
	case "offsets":
		check = offsets(*count)
	default:
		fmt.Fprintln(os.Stderr, "lifetimes: no such kind")
		os.Exit(2)
	}
	report.Stop()
	report.Set("check", check)
	report.End()
}
