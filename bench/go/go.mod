module wane/bench

go 1.21
