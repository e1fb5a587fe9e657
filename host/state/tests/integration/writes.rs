//! Writes: alone, together, and when they fail.

use host_state::StateError;
use host_state::rusqlite::Connection;

use crate::support::{Store, count, open, put};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

fn insert(connection: &Connection, number: i64) -> Result<(), StateError> {
    let put = connection.execute("INSERT INTO numbers (number) VALUES (?1)", [number]);
    put.map(drop).map_err(|error| StateError::of("numbers".as_ref(), &error))
}

#[test]
fn a_failed_write_leaves_the_others_of_its_batch() {
    let store = Store::new();
    runtime().block_on(async {
        let write = |number: i64| {
            let database = store.database.clone();
            async move {
                database
                    .write(move |connection| {
                        insert(connection, number)?;
                        // Of each ten one fails after it has written, and one panics.
                        match number % 10 {
                            3 => insert(connection, number),
                            7 => panic!("on purpose"),
                            _ => Ok(()),
                        }
                    })
                    .await
            }
        };
        let answers = (0..100).map(|number| tokio::spawn(write(number))).collect::<Vec<_>>();
        for (number, answer) in answers.into_iter().enumerate() {
            let answer = answer.await.unwrap();
            assert_eq!(answer.is_err(), matches!(number % 10, 3 | 7), "{number}: {answer:?}");
        }
    });
    assert_eq!(store.count(), 80);
    store.put(1000).unwrap();
}

#[test]
fn a_write_that_nobody_waits_for_is_done() {
    let store = Store::new();
    runtime().block_on(async {
        let write = store.database.write(|connection| insert(connection, 1));
        let mut write = std::pin::pin!(write);
        // Polled once, so that it is sent, and dropped.
        let waker = std::task::Waker::noop();
        let _ = write.as_mut().poll(&mut std::task::Context::from_waker(waker));
    });
    store.put(2).unwrap();
    assert_eq!(store.count(), 2);
}

#[test]
fn readers_see_whole_writes_and_cannot_write() {
    let store = Store::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..50 {
                store
                    .database
                    .write_blocking(move |connection| (0..10).try_for_each(|n| insert(connection, round * 10 + n)))
                    .unwrap();
            }
        });
        while !writer.is_finished() {
            assert_eq!(store.count() % 10, 0);
        }
    });
    assert_eq!(store.count(), 500);
    let written = store.database.read_blocking(|connection| insert(connection, 1000));
    assert!(matches!(written, Err(StateError::Open { .. } | StateError::Statement { .. })), "{written:?}");
    assert_eq!(store.count(), 500);
}

#[test]
fn a_full_disk_is_an_error_that_leaves_the_store_readable() {
    let store = Store::new();
    store.put(1).unwrap();
    let limit = |pages: i64| {
        store.database.write_blocking(move |connection| {
            let set = connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()));
            set.map_err(|error| StateError::of("numbers".as_ref(), &error))
        })
    };
    limit(20).unwrap();
    let big = |number: i64| {
        let path = store.file();
        store.database.write_blocking(move |connection| {
            let text = "x".repeat(200_000);
            let put = connection.execute("INSERT INTO numbers VALUES (?1, ?2)", (number, text));
            put.map(drop).map_err(|error| StateError::of(&path, &error))
        })
    };
    let full = big(2).unwrap_err();
    assert!(matches!(full, StateError::Full { .. }), "{full:?}");
    assert!(full.to_string().contains("name.sqlite3") && full.to_string().contains("full"), "{full}");
    assert_eq!(store.count(), 1);
    store.put(3).unwrap();
    // There is room again.
    limit(100_000).unwrap();
    big(4).unwrap();
    assert_eq!(store.count(), 3);
    assert_eq!(count(&open(&store.folder).unwrap()), 3);
}

#[test]
fn processes_write_at_the_same_time() {
    let store = Store::new();
    let other = open(&store.folder).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..100).for_each(|number| store.put(number).unwrap()));
        scope.spawn(|| (100..200).for_each(|number| put(&other, number).unwrap()));
    });
    assert_eq!((store.count(), count(&other)), (200, 200));
}

#[test]
fn what_was_sent_is_written_before_the_file_is_closed() {
    let store = Store::new();
    let folder = store.folder;
    runtime().block_on(async {
        let database = store.database;
        for number in 0..50 {
            let write = database.write(move |connection| insert(connection, number));
            let mut write = Box::pin(write);
            let waker = std::task::Waker::noop();
            let _ = write.as_mut().poll(&mut std::task::Context::from_waker(waker));
        }
        drop(database);
    });
    let reopened = open(&folder).unwrap();
    let patience = std::time::Instant::now();
    while count(&reopened) < 50 && patience.elapsed().as_secs() < 60 {
        std::thread::yield_now();
    }
    assert_eq!(count(&reopened), 50);
}
