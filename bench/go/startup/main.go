// The Go twin of bench/startup.c: an empty program with Go's runtime in it.
package main

import "os"

var sink *[2]uint64

func main() {
	if len(os.Args) > 1 {
		sink = new([2]uint64)
	}
}
