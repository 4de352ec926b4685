//go:build go1.24

// The Go twin of bench/uniques.c: unique.Make of strings.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"
	"unique"
	"unsafe"

	"wane/bench/report"
	"wane/bench/tables"
)

const (
	maxText = 16
	batch   = 1000
)

var (
	what    = flag.String("what", "hit", "hit, miss, drop")
	count   = flag.Int("count", 1000, "values")
	ops     = flag.Int("ops", 2000000, "how often an existing value is made")
	threads = flag.Int("threads", 1, "goroutines at the same time")
	rounds  = flag.Int("rounds", 3, "rounds")
)

var (
	texts []string
	made  []unique.Handle[string]
)

//go:noinline
func textsMake(first uint64, n int, order []uint32) {
	texts = make([]string, n)
	for i := range texts {
		at := i
		if order != nil {
			at = int(order[i])
		}
		texts[i] = tables.NewText(first+uint64(at), maxText)
	}
}

//go:noinline
func makeAgain(thread int) (done int) {
	at := tables.Share(*count, *threads, thread)
	for i := 0; i < *ops / *threads; i++ {
		if unique.Make(texts[at]) == made[at] {
			done++
		}
		if at++; at == len(texts) {
			at = 0
		}
	}
	return done
}

//go:noinline
func makeNew(thread int) int {
	first, end := tables.Share(*count, *threads, thread), tables.Share(*count, *threads, thread+1)
	for i := first; i < end; i++ {
		made[i] = unique.Make(texts[i])
	}
	return end - first
}

// hits asks for each value with a copy of its text that it was not made of.
func hits(round int) (int, float64) {
	if round == 0 {
		order := tables.Order(*count, 1)
		made = make([]unique.Handle[string], *count)
		textsMake(1, *count, order)
		makeNew(0)
		for thread := 1; thread < *threads; thread++ {
			makeNew(thread)
		}
		textsMake(1, *count, order)
	}
	return tables.Run(*threads, makeAgain)
}

// misses makes values that no round before had.
func misses(round int) (int, float64) {
	textsMake(uint64(round**count)+1, *count, nil)
	made = nil
	runtime.GC()
	made = make([]unique.Handle[string], *count)
	return tables.Run(*threads, makeNew)
}

var spent []float64 // of each thread

//go:noinline
func makeBatch(texts []string) (done int) {
	for _, text := range texts {
		if handle := unique.Make(text); handle != made[0] {
			done++
		}
	}
	return done
}

func makeAndDrop(thread int) (done int) {
	number := uint64(thread)<<36 + 1
	letters := make([][tables.MaxText]byte, batch)
	texts := make([]string, batch) // whose letters change: Make copies
	ns := int64(0)
	for i := 0; i < *count / *threads; i += batch {
		for j := range texts {
			size := tables.Text(&letters[j], number, maxText)
			texts[j] = unsafe.String(&letters[j][0], size)
			number++
		}
		start := time.Now()
		done += makeBatch(texts)
		ns += time.Since(start).Nanoseconds()
	}
	spent[thread] = float64(ns)
	return done
}

func drops(int) (sum int, ns float64) {
	made = []unique.Handle[string]{unique.Make("")}
	spent = make([]float64, *threads)
	sum, _ = tables.Run(*threads, makeAndDrop)
	for _, one := range spent {
		ns += one / float64(*threads)
	}
	return sum, ns
}

func main() {
	report.Start("uniques")
	run := map[string]func(int) (int, float64){"hit": hits, "miss": misses, "drop": drops}[*what]
	if run == nil {
		fmt.Fprintln(os.Stderr, "uniques: no such kind")
		os.Exit(2)
	}
	if *what == "drop" {
		*rounds = 1
	}
	check, times := 0, make([]float64, *rounds)
	for round := range times {
		sum, ns := run(round)
		check += sum
		times[round] = ns * float64(*threads) / float64(sum)
	}
	report.Stop()
	report.Set("make_ns", report.Median(times))
	report.Set("check", check)
	report.End()
}
