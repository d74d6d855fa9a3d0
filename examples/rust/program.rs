//! A Rust program on hakmem: vectors, strings, threads, wide alignments. Fails if another allocator
//! served one of them.
mod hakmem;

use std::alloc::{alloc, alloc_zeroed, dealloc, realloc, Layout};
use std::collections::HashMap;

#[global_allocator]
static ALLOCATOR: hakmem::Hakmem = hakmem::Hakmem;

fn wide() -> bool {
    let layout = Layout::from_size_align(1000, 4096).unwrap();
    unsafe {
        let p = alloc_zeroed(layout);
        let clean = (0..1000).all(|i| *p.add(i) == 0);
        p.write_bytes(7, 1000);
        let p = realloc(p, layout, 100_000);
        let layout = Layout::from_size_align(100_000, 4096).unwrap();
        let kept = (0..1000).all(|i| *p.add(i) == 7) && p as usize % 4096 == 0;
        let ours = hakmem::owns(p);
        dealloc(p, layout);
        let small = Layout::from_size_align(1, 1).unwrap();
        let q = alloc(small);
        dealloc(q, small);
        clean && kept && ours
    }
}

fn main() {
    let mut words: HashMap<u32, String> = HashMap::new();
    for i in 0..1000 {
        words.insert(i, "x".repeat(i as usize));
    }
    let threads: Vec<_> = (0..4)
        .map(|t| std::thread::spawn(move || (0..10_000u64).map(|i| i * t).collect::<Vec<_>>()))
        .collect();
    let numbers: Vec<Vec<u64>> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    let sum: u64 = numbers.iter().flatten().sum();
    let ours = hakmem::owns(words[&999].as_ptr())
        && numbers.iter().all(|n| hakmem::owns(n.as_ptr()))
        && hakmem::owns(&*Box::new(1))
        && wide();
    println!("served by {}, sum {}", if ours { "hakmem" } else { "another" }, sum);
    std::process::exit(if ours && sum == 299_970_000 { 0 } else { 1 });
}
