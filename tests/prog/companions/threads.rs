// threads.rs: Rust's std: its mutexes and condition variables wait by futex through syscall(2).
use std::sync::{mpsc, Arc, Barrier, Condvar, Mutex, RwLock};
use std::thread;

fn main() {
    let state = Arc::new((Mutex::new(0usize), Condvar::new()));
    let table = Arc::new(RwLock::new(vec![0u64; 8]));
    let barrier = Arc::new(Barrier::new(8));
    let (sender, receiver) = mpsc::sync_channel::<u64>(4);
    let threads: Vec<_> = (0..8usize)
        .map(|me| {
            let (state, table, barrier) = (state.clone(), table.clone(), barrier.clone());
            let sender = sender.clone();
            thread::spawn(move || {
                for i in 0..100u64 {
                    table.write().unwrap()[me] += i;
                    assert!(table.read().unwrap()[me] >= i);
                    sender.send(i).unwrap();
                }
                barrier.wait();
                for _ in 0..20 {
                    let mut turn = state.0.lock().unwrap();
                    while *turn % 8 != me {
                        turn = state.1.wait(turn).unwrap();
                    }
                    *turn += 1;
                    state.1.notify_all();
                }
            })
        })
        .collect();
    drop(sender);
    assert_eq!(receiver.iter().sum::<u64>(), 8 * 4950);
    for t in threads {
        t.join().unwrap();
    }
    assert_eq!(*state.0.lock().unwrap(), 160);
    assert!(table.read().unwrap().iter().all(|&n| n == 4950));
    println!("OK");
}
