//! How long the hot parts take: `cargo bench -p halfmq-coordinator --bench seconds`.

mod parts;

/// The binary's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use criterion::{Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("64 transactions");
    group.throughput(Throughput::Elements(64));
    for (name, make) in parts::PARTS {
        let mut part = make();
        group.bench_function(name, |bencher| bencher.iter(&mut part));
    }
    group.finish();
    criterion.final_summary();
}
