// The Go twin of bench/churn.c: the same sizes, entries and order. An object
// that may hold pointers is a slice of pointers, a leaf a slice of numbers.
package main

import (
	"flag"

	"wane/bench/report"
)

const (
	minWords = 2
	maxWords = 256
	cells    = 256
)

var (
	entries = flag.Int("entries", 1000000, "entries of the table")
	replace = flag.Int("replace", 10000000, "replacements")
	leaf    = flag.Bool("leaf", false, "objects without pointers")
	seed    = flag.Uint64("seed", 1, "seed of the sizes and the choices")
)

type cell struct{ number, unused uint64 }

var cellAt [cells]*cell

func sizeOf(bits uint64) int {
	return minWords + int(((bits>>32)*(maxWords-minWords+1))>>32)
}

func newObject(random *report.Random) []*cell {
	bits := random.Next()
	object := make([]*cell, sizeOf(bits))
	object[0] = cellAt[bits%cells]
	object[len(object)-1] = cellAt[bits/cells%cells]
	return object
}

func newLeaf(random *report.Random) []uint64 {
	bits := random.Next()
	object := make([]uint64, sizeOf(bits))
	object[0] = bits % cells
	object[len(object)-1] = bits / cells % cells
	return object
}

func held(object []*cell) uint64 {
	return object[0].number + object[len(object)-1].number
}

func heldLeaf(object []uint64) uint64 {
	return object[0] + object[len(object)-1]
}

func churn[T any](random *report.Random, make1 func(*report.Random) []T,
	drop func([]T) uint64) (check uint64) {
	table := make([][]T, *entries)
	for i := range table {
		table[i] = make1(random)
	}
	report.Set("build_s", report.Elapsed())
	for i := 0; i < *replace; i++ {
		index := random.Below(uint32(*entries))
		check += drop(table[index])
		table[index] = make1(random)
	}
	for i := range table {
		check += drop(table[i])
	}
	return check
}

func main() {
	report.Start("churn")
	for i := range cellAt {
		cellAt[i] = &cell{number: uint64(i)}
	}
	random := report.Random(*seed)
	var check uint64
	if *leaf {
		check = churn(&random, newLeaf, heldLeaf)
	} else {
		check = churn(&random, newObject, held)
	}
	report.Stop()
	report.Set("check", check)
	report.End()
}
