// The Go twin of bench/mark.c: the same shapes and sizes.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sort"
	"time"
	"unsafe"

	"wane/bench/report"
)

const (
	lists    = 64
	granule  = 16
	nodeSize = 32
)

var (
	shape       = flag.String("shape", "mixed", "tree, list, array or mixed")
	mib         = flag.Int("mib", 256, "size of the live heap")
	collections = flag.Int("collections", 10, "collections to time")
	seed        = flag.Uint64("seed", 1, "seed of sizes and order")
)

type node struct {
	left, right *node
	data        [2]uint64
}

var (
	tree           *node
	listAt         [lists]*node
	array          []unsafe.Pointer
	target         byte // what every object of the array points to
	objects, bytes int
)

func newNode() *node {
	objects++
	bytes += nodeSize
	return new(node)
}

func newTree(n int) *node {
	if n == 0 {
		return nil
	}
	made := newNode()
	made.left = newTree((n - 1) / 2)
	made.right = newTree(n - 1 - (n-1)/2)
	return made
}

func buildLists(room int) {
	for i := 0; i < room/nodeSize; i++ {
		made := newNode()
		made.left = listAt[i%lists]
		listAt[i%lists] = made
	}
}

// buildArray keeps bare pointers to the objects, as C does.
func buildArray(room int, random *report.Random) {
	array = make([]unsafe.Pointer, room/(8+granule*9/2))
	objects++
	bytes += 8 * len(array)
	for i := range array {
		words := 2 * (1 + random.Below(8))
		object := make([]*byte, words)
		object[0] = &target
		array[i] = unsafe.Pointer(unsafe.SliceData(object))
		objects++
		bytes += 8 * int(words)
	}
	for i := len(array); i > 1; i-- {
		other := random.Below(uint32(i))
		array[i-1], array[other] = array[other], array[i-1]
	}
}

func build() {
	random := report.Random(*seed)
	room := *mib << 20
	if *shape == "mixed" {
		room /= 3
	}
	if *shape == "tree" || *shape == "mixed" {
		tree = newTree(room / nodeSize)
	}
	if *shape == "list" || *shape == "mixed" {
		buildLists(room)
	}
	if *shape == "array" || *shape == "mixed" {
		buildArray(room, &random)
	}
	if objects == 0 {
		fmt.Fprintln(os.Stderr, "mark: no such shape")
		os.Exit(2)
	}
}

func main() {
	report.Start("mark")
	build()
	runtime.GC()
	report.Set("build_s", report.Elapsed())
	seconds := make([]float64, *collections)
	for i := range seconds {
		start := time.Now()
		runtime.GC()
		seconds[i] = time.Since(start).Seconds()
	}
	report.Stop()
	sort.Float64s(seconds)
	typical := (seconds[(len(seconds)-1)/2] + seconds[len(seconds)/2]) / 2
	report.Set("live_objects", objects)
	report.Set("live_bytes", bytes)
	report.Set("collect_s", typical)
	report.Set("collect_min_s", seconds[0])
	report.Set("objects_per_s", float64(objects)/typical)
	report.Set("mb_per_s", float64(bytes)/1e6/typical)
	report.End()
}
