//go:build go1.24

// The Go twin of bench/maps.c: sync.Map.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"

	"wane/bench/report"
	"wane/bench/tables"
)

var (
	kind    = flag.String("keys", "word", "word, string")
	count   = flag.Int("count", 1000000, "keys of a map")
	number  = flag.Int("maps", 1, "maps that are filled")
	ops     = flag.Int("ops", 1000000, "reads")
	threads = flag.Int("threads", 1, "goroutines at the same time")
	rounds  = flag.Int("rounds", 3, "rounds")
)

const maxText = 16

var names = [...]string{"new_ns", "existing_ns", "load_ns", "delete_ns"}

// A value is 16 bytes that may hold pointers.
type value struct {
	number uint64
	unused *byte
}

// A key is an interface beforehand, which is never slower here: made at the call
// it would be allocated by LoadOrStore.
type pair struct {
	key   any
	value *value
}

var (
	stored, asked []pair // other copies of the keys, in another order
	maps          []*sync.Map
)

func makeKey(number uint64) any {
	if *kind == "string" {
		return tables.NewText(number, maxText)
	}
	return int(number)
}

//go:noinline
func pairsMake(values []*value, seed uint64) []pair {
	pairs := make([]pair, len(values))
	for i, at := range tables.Order(len(values), seed) {
		pairs[i] = pair{makeKey(uint64(at) + 1), values[at]}
	}
	return pairs
}

//go:noinline
func mapsMake() {
	maps = make([]*sync.Map, *number)
	for i := range maps {
		maps[i] = new(sync.Map)
	}
}

func part(pairs []pair, thread int) []pair {
	return pairs[tables.Share(*count, *threads, thread):tables.Share(*count, *threads, thread+1)]
}

//go:noinline
func storeNew(thread int) (done int) {
	pairs := part(stored, thread)
	for _, m := range maps {
		for i := range pairs {
			if _, loaded := m.LoadOrStore(pairs[i].key, pairs[i].value); !loaded {
				done++
			}
		}
	}
	return done
}

//go:noinline
func loadOrStore(thread int) (done int) {
	m := maps[0]
	at := tables.Share(*count, *threads, thread)
	for i := 0; i < *ops / *threads; i++ {
		if _, loaded := m.LoadOrStore(asked[at].key, asked[at].value); loaded {
			done++
		}
		if at++; at == len(asked) {
			at = 0
		}
	}
	return done
}

//go:noinline
func load(thread int) (done int) {
	m := maps[0]
	at := tables.Share(*count, *threads, thread)
	for i := 0; i < *ops / *threads; i++ {
		if _, ok := m.Load(asked[at].key); ok {
			done++
		}
		if at++; at == len(asked) {
			at = 0
		}
	}
	return done
}

//go:noinline
func compareAndDelete(thread int) (done int) {
	pairs := part(asked, thread)
	for _, m := range maps {
		for i := range pairs {
			if m.CompareAndDelete(pairs[i].key, pairs[i].value) {
				done++
			}
		}
	}
	return done
}

func main() {
	report.Start("maps")
	if *kind != "word" && *kind != "string" {
		fmt.Fprintln(os.Stderr, "maps: no such kind")
		os.Exit(2)
	}
	values := make([]*value, *count)
	for i := range values {
		values[i] = &value{number: uint64(i)}
	}
	stored, asked = pairsMake(values, 1), pairsMake(values, 2)
	check := 0
	work := [len(names)]func(int) int{storeNew, loadOrStore, load, compareAndDelete}
	var times [len(names)][]float64
	for round := 0; round < *rounds; round++ {
		mapsMake()
		runtime.GC()
		for phase := range work {
			sum, ns := tables.Run(*threads, work[phase])
			check += sum
			times[phase] = append(times[phase], ns*float64(*threads)/float64(sum))
		}
	}
	report.Stop()
	for phase, name := range names {
		report.Set(name, report.Median(times[phase]))
	}
	report.Set("check", check)
	report.End()
}
