//! Consumers that wait, and several of them.

use std::collections::BTreeSet;
use std::time::Duration;

use host_queues::{Consumer, Decision, Policy};

use crate::{World, bodies, message};

#[tokio::test]
async fn a_full_batch_is_due_at_once_and_a_part_of_one_after_its_wait() {
    let world = World::new();
    let consumer = world.consumer(Policy { batch: 2, wait: Duration::from_secs(5), ..Policy::default() });
    let queue = world.queue("q");
    let sending = async {
        queue.send(vec![message("a")]).await.unwrap();
        tokio::task::yield_now().await;
        queue.send(vec![message("b")]).await.unwrap();
    };
    // By the test's clock no time passes, so only the second message can make the batch due.
    let (batch, ()) = tokio::join!(consumer.batch(), sending);
    assert_eq!(bodies(&batch.unwrap()), ["a", "b"]);
    queue.send(vec![message("c")]).await.unwrap();
    world.pass(5000);
    assert_eq!(bodies(&consumer.batch().await.unwrap()), ["c"]);
}

#[tokio::test]
async fn a_message_of_another_process_is_found() {
    let world = World::new();
    let consumer = world.consumer(Policy { wait: Duration::ZERO, ..Policy::default() });
    let elsewhere = world.another().queue("q").unwrap();
    let sending = async {
        tokio::task::yield_now().await;
        elsewhere.send(vec![message("a")]).await.unwrap();
    };
    let (batch, ()) = tokio::join!(consumer.batch(), sending);
    assert_eq!(bodies(&batch.unwrap()), ["a"]);
}

#[tokio::test]
async fn a_consumer_that_is_alone_takes_back_what_ended_ones_had() {
    let world = World::new();
    world.queue("q").send(vec![message("a")]).await.unwrap();
    let policy = Policy { wait: Duration::ZERO, ..Policy::default() };
    let gone = world.another();
    let consumer = Consumer::new(gone.queue("q").unwrap(), policy.clone(), None);
    let batch = consumer.batch().await.unwrap();
    // While it is there, its lease is its own.
    let next = world.another();
    let waiting = Consumer::new(next.queue("q").unwrap(), policy.clone(), None);
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting.ready()).await.is_err());
    drop((batch, consumer, gone, waiting, next));
    let batch = world.consumer(policy).batch().await.unwrap();
    assert_eq!((bodies(&batch), batch.messages[0].attempts), (vec!["a".to_owned()], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_processes_never_hold_the_same_message() {
    let world = World::new();
    for part in 0..4 {
        let messages = (0..50).map(|n| message(&format!("{part}-{n}"))).collect();
        world.queue("q").send(messages).await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let queue = world.another().queue("q").unwrap();
        tasks.spawn(async move {
            let consumer = Consumer::new(queue, Policy { batch: 3, ..Policy::default() }, None);
            let mut got = Vec::new();
            while let Some(batch) = consumer.lease().await.unwrap() {
                got.extend(bodies(&batch));
                let decisions = vec![Decision::Ack; batch.messages.len()];
                consumer.settle(batch, &decisions).await.unwrap();
            }
            got
        });
    }
    let got: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(got.len(), 200);
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>().len(), 200);
    assert_eq!(world.queue("q").metrics().await.unwrap().backlog_count, 0);
}
