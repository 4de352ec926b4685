// Package report is what every Go twin has around its work: the random
// generator, the clocks, and the one line of JSON at the end, with the same
// names and meanings as bench/report.h.
package report

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// Random is splitmix64: the same numbers as random_next in bench/report.h.
type Random uint64

func (r *Random) Next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

// Below gives a number below bound.
func (r *Random) Below(bound uint32) uint32 {
	return uint32(((r.Next() >> 32) * uint64(bound)) >> 32)
}

var (
	line      = map[string]any{}
	startTime time.Time
	startCPU  float64
)

func cpuSeconds() float64 {
	var use syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &use)
	return float64(use.Utime.Nano()+use.Stime.Nano()) / 1e9
}

func peakRSS() (kib int) {
	status, _ := os.ReadFile("/proc/self/status")
	for _, text := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(text, "VmHWM:") {
			fmt.Sscanf(text, "VmHWM: %d", &kib)
		}
	}
	return kib
}

// RSS gives the bytes that are resident now.
func RSS() int {
	var size, pages int
	text, _ := os.ReadFile("/proc/self/statm")
	fmt.Sscanf(string(text), "%d %d", &size, &pages)
	return pages * os.Getpagesize()
}

// Median gives the median of the values, which are sorted on the way.
func Median(values []float64) float64 {
	sort.Float64s(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// Start parses the flags and starts the clocks.
func Start(program string) {
	flag.Parse()
	line["program"] = program
	line["peer"] = "go"
	line["version"] = runtime.Version()
	flag.VisitAll(func(f *flag.Flag) {
		value := f.Value.(flag.Getter).Get()
		if on, ok := value.(bool); ok {
			value = 0
			if on {
				value = 1
			}
		}
		line[f.Name] = value
	})
	startCPU = cpuSeconds()
	startTime = time.Now()
}

// Clock gives the system's monotonic clock, as now_ns in bench/report.h: the one
// that other processes read too.
func Clock() uint64 {
	var t syscall.Timespec
	const monotonic = 1
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&t)), 0)
	return uint64(t.Nano())
}

// Elapsed gives the seconds since Start.
func Elapsed() float64 { return time.Since(startTime).Seconds() }

// Stop stops the clocks.
func Stop() {
	line["elapsed_s"] = Elapsed()
	line["cpu_s"] = cpuSeconds() - startCPU
	line["peak_rss_kib"] = peakRSS()
}

// Set adds a value to the line.
func Set(name string, value any) { line[name] = value }

// End prints the line.
func End() {
	var stats debug.GCStats
	debug.ReadGCStats(&stats)
	pauses := stats.Pause
	sort.Slice(pauses, func(i, j int) bool { return pauses[i] < pauses[j] })
	line["cycles"] = stats.NumGC
	line["pauses"] = len(pauses)
	line["pause_total_ns"] = stats.PauseTotal.Nanoseconds()
	if n := len(pauses); n > 0 {
		line["pause_p50_ns"] = pauses[n/2].Nanoseconds()
		line["pause_p99_ns"] = pauses[n*99/100].Nanoseconds()
		line["pause_max_ns"] = pauses[n-1].Nanoseconds()
	}
	text, _ := json.Marshal(line)
	fmt.Println(string(text))
}
