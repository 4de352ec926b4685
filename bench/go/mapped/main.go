//go:build go1.24

// The Go twin of bench/mapped.c, as far as Go has such things: the mapped file
// of https://go.dev/blog/cleanups-and-weak, which a cleanup unmaps, and its
// cache of weak pointers in a sync.Map, keyed by what stat says of the file.
package main

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"weak"

	"wane/bench/report"
	"wane/bench/tables"
)

const fileBytes = 10000

var (
	what    = flag.String("what", "shared", "shared or own")
	count   = flag.Int("count", 1000, "files")
	ops     = flag.Int("ops", 20000, "opens in a round")
	threads = flag.Int("threads", 1, "goroutines at the same time")
	rounds  = flag.Int("rounds", 5, "rounds")
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

type memoryMappedFile struct{ data []byte }

var mapped, unmapped atomic.Int64

func unmap(data []byte) {
	must(syscall.Munmap(data))
	unmapped.Add(1)
}

// Opens, asks and maps; the file is closed again.
func mmap(path string) ([]byte, syscall.Stat_t, error) {
	var status syscall.Stat_t
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	must(err)
	defer syscall.Close(fd)
	must(syscall.Fstat(fd, &status))
	data, err := syscall.Mmap(fd, 0, int(status.Size), syscall.PROT_READ, syscall.MAP_PRIVATE)
	return data, status, err
}

func newMemoryMappedFile(path string) *memoryMappedFile {
	data, _, err := mmap(path)
	for err == syscall.ENOMEM { // too many mappings: the collector knows nothing of them
		runtime.GC()
		time.Sleep(time.Millisecond)
		data, _, err = mmap(path)
	}
	must(err)
	file := &memoryMappedFile{data: data}
	mapped.Add(1)
	runtime.AddCleanup(file, unmap, data)
	return file
}

type identity struct {
	dev, ino  uint64
	size      int64
	sec, nsec int64
}

func identify(status *syscall.Stat_t) identity {
	return identity{status.Dev, status.Ino, status.Size, int64(status.Mtim.Sec), int64(status.Mtim.Nsec)}
}

var cache sync.Map // from identity to weak.Pointer[memoryMappedFile]

func openShared(path string) *memoryMappedFile {
	var status syscall.Stat_t
	must(syscall.Stat(path, &status))
	key := identify(&status)
	var made *memoryMappedFile
	for {
		found, ok := cache.Load(key)
		if !ok {
			if made == nil {
				made = newMemoryMappedFile(path)
			}
			handle := weak.Make(made)
			var loaded bool
			found, loaded = cache.LoadOrStore(key, handle)
			if !loaded {
				runtime.AddCleanup(made, func(key identity) {
					cache.CompareAndDelete(key, handle)
				}, key)
				return made
			}
		}
		if file := found.(weak.Pointer[memoryMappedFile]).Value(); file != nil {
			return file
		}
		cache.CompareAndDelete(key, found) // until its cleanup has run
	}
}

var (
	paths []string
	held  []*memoryMappedFile
)

func filesMake() (directory string) {
	directory, err := os.MkdirTemp("", "wane-bench-")
	must(err)
	for i := 0; i < *count; i++ {
		path := filepath.Join(directory, strconv.Itoa(i))
		must(os.WriteFile(path, make([]byte, fileBytes), 0600))
		paths = append(paths, path)
	}
	return directory
}

func next(at int) int {
	if at++; at == len(paths) {
		return 0
	}
	return at
}

func statAll(thread int) (done int) {
	at := tables.Share(*count, *threads, thread)
	for i := 0; i < *ops; i++ {
		var status syscall.Stat_t
		at = next(at)
		if syscall.Stat(paths[at], &status) == nil && status.Size == fileBytes {
			done++
		}
	}
	return done
}

func openAll(thread int) (done int) {
	at := tables.Share(*count, *threads, thread)
	for i := 0; i < *ops; i++ {
		at = next(at)
		if openShared(paths[at]) == held[at] {
			done++
		}
	}
	return done
}

func sharedRun() (check int) {
	var stats, opens, ratios []float64
	for _, path := range paths {
		held = append(held, openShared(path))
	}
	for round := 0; round < *rounds; round++ {
		run := func(series *[]float64, work func(thread int) int) {
			sum, ns := tables.Run(*threads, work)
			*series = append(*series, ns*float64(*threads)/float64(sum))
			check += sum
		}
		if round%2 == 0 {
			run(&stats, statAll)
			run(&opens, openAll)
		} else {
			run(&opens, openAll)
			run(&stats, statAll)
		}
		ratios = append(ratios, opens[round]/stats[round])
	}
	report.Stop()
	report.Set("stat_ns", report.Median(stats))
	report.Set("open_ns", report.Median(opens))
	report.Set("ratio", report.Median(ratios))
	return check
}

func openPlain(path string) {
	data, _, err := mmap(path)
	must(err)
	must(syscall.Munmap(data))
}

// Collects until all but a few, which a stale word may keep, are unmapped.
func settle() {
	runtime.GC()
	for mapped.Load()-unmapped.Load() > 8 {
		time.Sleep(100 * time.Microsecond)
	}
}

func cpuNs() float64 {
	var use syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &use))
	return float64(use.Utime.Nano() + use.Stime.Nano())
}

func ownRun() int {
	ways := []struct {
		name                string
		open                func(path string)
		loops, wholes, cpus []float64
	}{{name: "plain", open: openPlain},
		{name: "own", open: func(path string) { newMemoryMappedFile(path) }}}
	each := func(ns float64) float64 { return ns / float64(*ops) }
	at := 0
	for round := 0; round < *rounds; round++ {
		for i := range ways {
			way := &ways[i]
			cpu, start := cpuNs(), time.Now()
			for n := 0; n < *ops; n++ {
				at = next(at)
				way.open(paths[at])
			}
			way.loops = append(way.loops, each(float64(time.Since(start).Nanoseconds())))
			settle()
			way.wholes = append(way.wholes, each(float64(time.Since(start).Nanoseconds())))
			way.cpus = append(way.cpus, each(cpuNs()-cpu))
		}
	}
	report.Stop()
	for _, way := range ways {
		report.Set(way.name+"_ns", report.Median(way.loops))
		report.Set(way.name+"_all_ns", report.Median(way.wholes))
		report.Set(way.name+"_cpu_ns", report.Median(way.cpus))
	}
	return *rounds * *ops
}

func main() {
	report.Start("mapped")
	directory := filesMake()
	defer os.RemoveAll(directory)
	var check int
	if *what == "shared" {
		check = sharedRun()
	} else {
		check = ownRun()
	}
	report.Set("check", check)
	report.End()
}
