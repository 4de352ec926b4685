//go:build go1.24

// The Go twin of bench/caches.c: a cache of weak pointers in a sync.Map, as in
// https://go.dev/blog/cleanups-and-weak.
package main

import (
	"flag"
	"runtime"
	"sync"
	"weak"

	"wane/bench/report"
	"wane/bench/tables"
)

const maxText = 24

var (
	count   = flag.Int("count", 1000, "objects")
	ops     = flag.Int("ops", 1000000, "gets")
	threads = flag.Int("threads", 1, "goroutines at the same time")
	rounds  = flag.Int("rounds", 3, "rounds")
)

type cache[K comparable, V any] struct {
	create func(key K) *V
	m      sync.Map // from K to weak.Pointer[V]
}

func (c *cache[K, V]) get(key K) *V {
	var made *V
	for {
		found, ok := c.m.Load(key)
		if !ok {
			if made == nil {
				made = c.create(key)
			}
			handle := weak.Make(made)
			var loaded bool
			found, loaded = c.m.LoadOrStore(key, handle)
			if !loaded {
				runtime.AddCleanup(made, func(key K) {
					c.m.CompareAndDelete(key, handle)
				}, key)
				return made
			}
		}
		if object := found.(weak.Pointer[V]).Value(); object != nil {
			return object
		}
		c.m.CompareAndDelete(key, found) // until its cleanup has run
	}
}

// An object is 32 bytes that may hold pointers.
type object struct {
	size   int
	unused [3]*byte
}

var (
	texts []string
	held  []*object
	tried *cache[string, object]
)

func create(key string) *object { return &object{size: len(key)} }

//go:noinline
func textsMake(order []uint32) {
	texts = make([]string, len(order))
	for i, at := range order {
		texts[i] = tables.NewText(uint64(at)+1, maxText)
	}
}

//go:noinline
func getNew(thread int) int {
	first, end := tables.Share(*count, *threads, thread), tables.Share(*count, *threads, thread+1)
	for i := first; i < end; i++ {
		held[i] = tried.get(texts[i])
	}
	return end - first
}

//go:noinline
func getAgain(thread int) (done int) {
	at := tables.Share(*count, *threads, thread)
	for i := 0; i < *ops / *threads; i++ {
		if tried.get(texts[at]) == held[at] {
			done++
		}
		if at++; at == len(texts) {
			at = 0
		}
	}
	return done
}

func main() {
	report.Start("caches")
	var check int
	var creates, gets []float64
	order := tables.Order(*count, 1)
	for round := 0; round < *rounds; round++ {
		tried = &cache[string, object]{create: create}
		held = make([]*object, *count)
		textsMake(order)
		runtime.GC()
		sum, ns := tables.Run(*threads, getNew)
		creates = append(creates, ns*float64(*threads)/float64(sum))
		check += sum
		textsMake(order) // other copies
		sum, ns = tables.Run(*threads, getAgain)
		gets = append(gets, ns*float64(*threads)/float64(sum))
		check += sum
	}
	report.Stop()
	report.Set("create_ns", report.Median(creates))
	report.Set("get_ns", report.Median(gets))
	report.Set("check", check)
	report.End()
}
