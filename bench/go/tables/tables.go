// Package tables is bench/tables.h in Go: the same texts, the same orders, and
// phases that run in some goroutines at once and are timed together.
package tables

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"wane/bench/report"
)

// MaxText is how long a text can be.
const MaxText = 24

const letters = "abcdefghijklmnopqrstuvwxyz234567"

// Text writes the text of a number, 8 to max letters, and gives its size.
func Text(text *[MaxText]byte, number uint64, max uint32) int {
	random := report.Random(number)
	size := 8 + int(random.Below(max-8+1))
	first := number * 0x9e3779b97f4a7c15 & (1<<40 - 1)
	for i := 0; i < 8; i++ {
		text[i] = letters[first>>(5*i)&31]
	}
	rest := random.Next()
	for i := 8; i < size; i++ {
		text[i] = letters[rest>>(4*(i-8))&15]
	}
	return size
}

// NewText is the text of a number as a string of its own.
func NewText(number uint64, max uint32) string {
	var text [MaxText]byte
	return string(text[:Text(&text, number, max)])
}

// Order is 0 to n - 1 in random order.
func Order(n int, seed uint64) []uint32 {
	random := report.Random(seed)
	order := make([]uint32, n)
	for i := range order {
		at := random.Below(uint32(i + 1))
		order[i] = order[at]
		order[at] = uint32(i)
	}
	return order
}

// Share is where the part of one thread begins, of count things.
func Share(count, threads, thread int) int { return count * thread / threads }

// Run runs work in so many goroutines, which begin at the same moment. It gives
// the sum of what work returns, and the time from the first begin to the last
// end.
func Run(threads int, work func(thread int) int) (sum int, ns float64) {
	var arrived atomic.Int64
	var done sync.WaitGroup
	sums := make([]int, threads)
	starts := make([]time.Time, threads)
	ends := make([]time.Time, threads)
	one := func(thread int) {
		arrived.Add(1)
		for arrived.Load() < int64(threads) {
			runtime.Gosched()
		}
		starts[thread] = time.Now()
		sums[thread] = work(thread)
		ends[thread] = time.Now()
	}
	for thread := 1; thread < threads; thread++ {
		done.Add(1)
		go func(thread int) {
			one(thread)
			done.Done()
		}(thread)
	}
	one(0)
	done.Wait()
	start, end := starts[0], ends[0]
	for i := range sums {
		sum += sums[i]
		if starts[i].Before(start) {
			start = starts[i]
		}
		if ends[i].After(end) {
			end = ends[i]
		}
	}
	return sum, float64(end.Sub(start).Nanoseconds())
}
