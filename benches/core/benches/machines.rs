//! `cargo bench -p shoal-benches`: the machines' share of a task, a call, a reference.

#![allow(missing_docs, reason = "the macro's function has none")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use shoal_benches::Cluster;
use shoal_core::ids::ObjectId;

fn one_task(criterion: &mut Criterion) {
    let mut cluster = Cluster::new(4);
    criterion.bench_function("task: submit, run, resolve, drop", |bencher| {
        bencher.iter(|| {
            let object = cluster.submit();
            cluster.settle();
            assert!(cluster.is_ready(object));
            cluster.drop_reference(object);
        });
    });
}

fn many_tasks(criterion: &mut Criterion) {
    const TASKS: u64 = 100_000;
    let mut group = criterion.benchmark_group("many");
    group.throughput(Throughput::Elements(TASKS)).sample_size(10);
    group.bench_function("100,000 queued tasks", |bencher| {
        bencher.iter_batched_ref(
            || Cluster::new(4),
            |cluster| {
                let objects: Vec<ObjectId> = (0..TASKS).map(|_| cluster.submit()).collect();
                cluster.settle();
                for object in objects {
                    cluster.drop_reference(object);
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn calls(criterion: &mut Criterion) {
    let mut cluster = Cluster::new(4);
    let actor = cluster.actor();
    criterion.bench_function("actor call", |bencher| {
        bencher.iter(|| {
            let object = cluster.call(actor);
            cluster.settle();
            assert!(cluster.is_ready(object));
            cluster.drop_reference(object);
        });
    });
}

fn references(criterion: &mut Criterion) {
    let mut cluster = Cluster::new(4);
    let object = cluster.submit();
    cluster.settle();
    criterion.bench_function("reference: add, remove", |bencher| {
        bencher.iter(|| {
            cluster.add_reference(object);
            cluster.drop_reference(object);
        });
    });
}

criterion_group!(benches, one_task, many_tasks, calls, references);
criterion_main!(benches);
