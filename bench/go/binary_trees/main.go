// The Go twin of bench/binary_trees.c: the same algorithm, no pools.
package main

import (
	"flag"
	"sync"

	"wane/bench/report"
)

const minDepth = 4

var (
	depth   = flag.Int("depth", 18, "depth of the deepest trees")
	threads = flag.Int("threads", 1, "complete runs at the same time")
)

type node struct{ left, right *node }

func newTree(levels int) *node {
	n := new(node)
	if levels > 0 {
		n.left = newTree(levels - 1)
		n.right = newTree(levels - 1)
	}
	return n
}

func (n *node) count() uint64 {
	if n.left == nil {
		return 1
	}
	return 1 + n.left.count() + n.right.count()
}

func runTrees() uint64 {
	deepest := max(*depth, minDepth+2)
	check := newTree(deepest + 1).count()
	lasting := newTree(deepest)
	for levels := minDepth; levels <= deepest; levels += 2 {
		trees := 1 << (deepest - levels + minDepth)
		for i := 0; i < trees; i++ {
			check += newTree(levels).count()
		}
	}
	return check + lasting.count()
}

func main() {
	report.Start("binary_trees")
	results := make([]uint64, *threads)
	var done sync.WaitGroup
	for i := range results {
		done.Add(1)
		go func(i int) {
			results[i] = runTrees()
			done.Done()
		}(i)
	}
	done.Wait()
	report.Stop()
	var check uint64
	for _, result := range results {
		check += result
	}
	report.Set("check", check)
	report.End()
}
