// The Go twin of bench/latency.c: the same objects, two of whose words are
// pointers, and the same indices in the same order.
package main

import (
	"flag"
	"fmt"
	"math"
	"math/bits"
	"os"
	"runtime/metrics"
	"sync"
	"time"

	"wane/bench/report"
)

const (
	batch     = 16
	stepsLog2 = 5
	steps     = 1 << stepsLog2
	buckets   = (64 - stepsLog2 + 1) * steps
)

var (
	objects  = flag.Int("objects", 8000000, "objects alive")
	threads  = flag.Int("threads", 1, "goroutines at the same time")
	seconds  = flag.Int("seconds", 12, "measured time")
	warmUpMs = flag.Int("warm-up-ms", 3000, "the same before it, unmeasured")
	seed     = flag.Uint64("seed", 1, "seed of the indices")
)

type object struct {
	index, check uint64
	unused       [2]*object
}

// A histogram is that of bench/histogram.h.
type histogram struct {
	count, max uint64
	buckets    [buckets]uint64
}

func bucketOf(value uint64) int {
	if value < steps {
		return int(value)
	}
	shift := bits.Len64(value) - 1 - stepsLog2
	return shift*steps + int(value>>shift)
}

// top is the highest value that falls in a bucket.
func top(bucket int) uint64 {
	if bucket < 2*steps {
		return uint64(bucket)
	}
	shift := bucket/steps - 1
	return (uint64(bucket%steps+steps)+1)<<shift - 1
}

func (h *histogram) add(value uint64) {
	h.count++
	h.buckets[bucketOf(value)]++
	h.max = max(h.max, value)
}

func (h *histogram) merge(other *histogram) {
	h.count += other.count
	h.max = max(h.max, other.max)
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
}

// beyond gives what all but this share of the values do not exceed.
func (h *histogram) beyond(share float64) uint64 {
	allowed, rest := float64(h.count)*share, h.count
	for i, n := range h.buckets {
		if rest -= n; float64(rest) <= allowed {
			return min(top(i), h.max)
		}
	}
	return h.max
}

func (h *histogram) pairs() (pairs [][2]uint64) {
	for i, n := range h.buckets {
		if n != 0 {
			pairs = append(pairs, [2]uint64{top(i), n})
		}
	}
	return pairs
}

var (
	array      []*object
	start      = time.Now() // the clock's zero
	beginNs    uint64       // when the measured time began, on that clock
	beginClock uint64       // the same moment, on the system's clock
	before     counters
)

func now() uint64 { return uint64(time.Since(start)) }

func checkOf(index uint64) uint64 { return (index + 1) * 0x9e3779b97f4a7c15 }

func replace(index uint64) {
	array[index] = &object{index: index, check: checkOf(index)}
}

func mutate(random *report.Random, gaps *histogram, end uint64) (last uint64) {
	n := uint32(*objects)
	for last = now(); last < end; {
		for i := 0; i < batch; i++ {
			replace(uint64(random.Below(n)))
		}
		at := now()
		gaps.add(at - last)
		last = at
	}
	return last
}

// counters are what Go counts of itself: cycles, and stops by their length.
type counters struct {
	cycles uint64
	stops  metrics.Float64Histogram
}

func readCounters() (c counters) {
	samples := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/sched/pauses/total/gc:seconds"}} // since Go 1.22
	metrics.Read(samples)
	if samples[0].Value.Kind() == metrics.KindUint64 {
		c.cycles = samples[0].Value.Uint64()
	}
	if samples[1].Value.Kind() == metrics.KindFloat64Histogram {
		all := samples[1].Value.Float64Histogram()
		c.stops.Buckets = all.Buckets
		c.stops.Counts = append(c.stops.Counts, all.Counts...)
	}
	return c
}

// stopNs is the length that all but this share of the stops do not exceed: the
// upper end of Go's bucket, at most a quarter more.
func stopNs(counts []uint64, ends []float64, count uint64, share float64) uint64 {
	rest := count
	for i, n := range counts {
		if rest -= n; float64(rest) <= float64(count)*share {
			if math.IsInf(ends[i+1], 1) {
				return uint64(ends[i] * 1e9)
			}
			return uint64(ends[i+1] * 1e9)
		}
	}
	return 0
}

func reportCounters(after counters) {
	report.Set("collections", after.cycles-before.cycles)
	counts, count := after.stops.Counts, uint64(0)
	for i := range counts {
		counts[i] -= before.stops.Counts[i]
		count += counts[i]
	}
	report.Set("stops", count)
	if count != 0 {
		report.Set("stop_p99_ns", stopNs(counts, after.stops.Buckets, count, 0.01))
		report.Set("stop_max_ns", stopNs(counts, after.stops.Buckets, count, 0))
	}
}

// run runs the goroutines and gives their gaps in the measured time, and when
// the last of them ended.
func run() (all histogram, end uint64) {
	var warm, done sync.WaitGroup
	begin := make(chan struct{})
	gaps, ends := make([]histogram, *threads), make([]uint64, *threads)
	one := func(i int) {
		random := report.Random(*seed + uint64(i))
		mutate(&random, &gaps[i], now()+uint64(*warmUpMs)*1e6)
		gaps[i] = histogram{}
		warm.Done()
		<-begin
		ends[i] = mutate(&random, &gaps[i], beginNs+uint64(*seconds)*1e9)
		done.Done()
	}
	warm.Add(*threads)
	done.Add(*threads)
	for i := range gaps {
		go one(i)
	}
	warm.Wait()
	before = readCounters()
	report.Start("latency")
	beginNs, beginClock = now(), report.Clock()
	close(begin)
	done.Wait()
	for i := range gaps {
		all.merge(&gaps[i])
		end = max(end, ends[i])
	}
	return all, end
}

// verify gives the sum of all checks; fails if an object does not hold what was
// written to it.
func verify() (sum uint64) {
	wrong := 0
	for i, object := range array {
		if object.index != uint64(i) || object.check != checkOf(uint64(i)) {
			wrong++
		}
		sum += object.check
	}
	if wrong != 0 {
		fmt.Fprintf(os.Stderr, "latency: %d of %d objects were LOST\n", wrong, *objects)
		os.Exit(1)
	}
	return sum
}

func main() {
	flag.Parse()
	array = make([]*object, *objects)
	for i := range array {
		replace(uint64(i))
	}
	gaps, end := run()
	after := readCounters()
	report.Stop()
	report.Set("check", verify())
	report.Set("measured_from_ns", beginClock)
	report.Set("measured_to_ns", beginClock+end-beginNs)
	report.Set("replacements_per_s", float64(gaps.count*batch)*1e9/float64(end-beginNs))
	report.Set("gap_p50_ns", gaps.beyond(0.5))
	report.Set("gap_p99_ns", gaps.beyond(0.01))
	report.Set("gap_p999_ns", gaps.beyond(0.001))
	report.Set("gap_p9999_ns", gaps.beyond(0.0001))
	report.Set("gap_max_ns", gaps.max)
	report.Set("gaps", gaps.pairs())
	reportCounters(after)
	report.End()
}
