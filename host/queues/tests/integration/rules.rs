//! One rule a test.

use host_queues::{
    Decision, MAX_BATCH_BYTES, MAX_BYTES, MAX_DELAY, MAX_MESSAGE_BYTES, Place, Policy, QueueError, RETENTION,
};

use crate::{World, bodies, message};

const RETRY: Decision = Decision::Retry { delay: None };

#[tokio::test]
async fn what_is_sent_is_delivered_once_and_acknowledged_away() {
    let world = World::new();
    let consumer = world.consumer(Policy::default());
    assert!(consumer.lease().await.unwrap().is_none());
    world.queue("q").send(vec![message("a"), message("b")]).await.unwrap();
    let batch = consumer.lease().await.unwrap().unwrap();
    assert_eq!(bodies(&batch), ["a", "b"]);
    assert_eq!((batch.metrics.backlog_count, batch.metrics.backlog_bytes), (2, 2));
    assert_eq!(batch.metrics.oldest_message_timestamp, Some(world.now()));
    assert!(consumer.lease().await.unwrap().is_none());
    consumer.settle(batch, &[Decision::Ack, Decision::Ack]).await.unwrap();
    world.pass(1_000_000);
    assert!(consumer.lease().await.unwrap().is_none());
    assert_eq!(world.queue("q").metrics().await.unwrap().backlog_count, 0);
}

#[tokio::test]
async fn a_batch_has_its_size_and_begins_with_what_has_waited_longest() {
    let world = World::new();
    let consumer = world.consumer(Policy { batch: 2, ..Policy::default() });
    for body in ["a", "b", "c"] {
        world.queue("q").send(vec![message(body)]).await.unwrap();
        world.pass(1);
    }
    let (first, second) = (consumer.lease().await.unwrap().unwrap(), consumer.lease().await.unwrap().unwrap());
    assert_eq!((bodies(&first), bodies(&second)), (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]));
}

#[tokio::test]
async fn delays_hold_back_new_and_retried_messages() {
    let world = World::new();
    let consumer = world.consumer(Policy { retry_delay: 5, ..Policy::default() });
    let mut late = message("late");
    late.delay = 2;
    world.queue("q").send(vec![late]).await.unwrap();
    assert!(consumer.lease().await.unwrap().is_none());
    assert_eq!(world.queue("q").peek(9).await.unwrap()[0].place, Place::Delayed);
    world.pass(2000);
    let batch = consumer.lease().await.unwrap().unwrap();
    consumer.settle(batch, &[Decision::Retry { delay: Some(3) }]).await.unwrap();
    world.pass(2999);
    assert!(consumer.lease().await.unwrap().is_none());
    world.pass(1);
    let batch = consumer.lease().await.unwrap().unwrap();
    assert_eq!(batch.messages[0].attempts, 2);
    // Without one of its own, the consumer's delay; what is longer than any may be counts as the longest.
    consumer.settle(batch, &[RETRY]).await.unwrap();
    world.pass(4999);
    assert!(consumer.lease().await.unwrap().is_none());
    world.pass(1);
    let batch = consumer.lease().await.unwrap().unwrap();
    consumer.settle(batch, &[Decision::Retry { delay: Some(u32::MAX) }]).await.unwrap();
    world.pass(i64::from(MAX_DELAY) * 1000);
    assert_eq!(consumer.lease().await.unwrap().unwrap().messages[0].attempts, 4);
}

#[tokio::test]
async fn retries_are_used_up_into_the_dead_letter_queue() {
    let world = World::new();
    let consumer = world.consumer(Policy { retries: 1, ..Policy::default() });
    world.queue("q").send(vec![message("poison"), message("fine")]).await.unwrap();
    let batch = consumer.lease().await.unwrap().unwrap();
    let id = batch.messages[0].id.clone();
    // What nobody says anything about is tried again.
    consumer.settle(batch, &[RETRY, Decision::Ack]).await.unwrap();
    let batch = consumer.lease().await.unwrap().unwrap();
    consumer.settle(batch, &[]).await.unwrap();
    assert!(consumer.lease().await.unwrap().is_none());
    let info = world.queue("q").info().await.unwrap();
    assert_eq!((info.messages, info.dead_lettered, info.dropped), (0, 1, 0));
    let dead = world.queue("dead").peek(9).await.unwrap();
    assert_eq!((dead.len(), dead[0].id.as_str(), dead[0].attempts), (1, id.as_str(), 0));
    assert_eq!((dead[0].body.as_slice(), dead[0].sent_ms), (&b"poison"[..], world.now()));
}

#[tokio::test]
async fn without_a_dead_letter_queue_they_are_counted_and_dropped() {
    let world = World::new();
    let consumer = host_queues::Consumer::new(world.queue("q"), Policy { retries: 0, ..Policy::default() }, None);
    world.queue("q").send(vec![message("poison")]).await.unwrap();
    let batch = consumer.lease().await.unwrap().unwrap();
    consumer.settle(batch, &[RETRY]).await.unwrap();
    let info = world.queue("q").info().await.unwrap();
    assert_eq!((info.messages, info.dead_lettered, info.dropped), (0, 0, 1));
}

#[tokio::test]
async fn a_message_that_ends_its_consumer_each_time_is_dead_too() {
    let world = World::new();
    let consumer = world.consumer(Policy { retries: 1, ..Policy::default() });
    world.queue("q").send(vec![message("kills")]).await.unwrap();
    for attempt in 1..=2 {
        assert_eq!(consumer.lease().await.unwrap().unwrap().messages[0].attempts, attempt);
        world.pass(host_queues::LEASE.as_millis() as i64);
    }
    assert!(consumer.lease().await.unwrap().is_none());
    assert_eq!(world.queue("dead").metrics().await.unwrap().backlog_count, 1);
    assert_eq!(world.queue("q").metrics().await.unwrap().backlog_count, 0);
}

#[tokio::test]
async fn who_lost_the_lease_decides_nothing() {
    let world = World::new();
    let consumer = world.consumer(Policy::default());
    world.queue("q").send(vec![message("a")]).await.unwrap();
    let lost = consumer.lease().await.unwrap().unwrap();
    world.pass(host_queues::LEASE.as_millis() as i64);
    let held = consumer.lease().await.unwrap().unwrap();
    consumer.settle(lost, &[Decision::Ack]).await.unwrap();
    assert_eq!(world.queue("q").metrics().await.unwrap().backlog_count, 1);
    consumer.settle(held, &[Decision::Return]).await.unwrap();
    // As if it had never been delivered that time.
    assert_eq!(consumer.lease().await.unwrap().unwrap().messages[0].attempts, 2);
}

#[tokio::test]
async fn what_nobody_handles_grows_too_old() {
    let world = World::new();
    let consumer = world.consumer(Policy::default());
    world.queue("q").send(vec![message("old"), message("held")]).await.unwrap();
    let batch = consumer.lease().await.unwrap().unwrap();
    consumer.settle(batch, &[Decision::Retry { delay: Some(1) }; 2]).await.unwrap();
    world.pass(RETENTION.as_millis() as i64 + 1);
    world.queue("q").send(vec![message("new")]).await.unwrap();
    let info = world.queue("q").info().await.unwrap();
    assert_eq!((info.messages, info.expired), (1, 2));
    assert_eq!(bodies(&consumer.lease().await.unwrap().unwrap()), ["new"]);
}

#[tokio::test]
async fn a_paused_queue_takes_messages_and_gives_none() {
    let world = World::new();
    let consumer = world.consumer(Policy::default());
    world.queue("q").set_paused(true).await.unwrap();
    world.queue("q").send(vec![message("a")]).await.unwrap();
    assert!(consumer.lease().await.unwrap().is_none());
    assert!(world.queue("q").info().await.unwrap().paused);
    world.queue("q").set_paused(false).await.unwrap();
    assert!(consumer.lease().await.unwrap().is_some());
}

#[tokio::test]
async fn purging_leaves_nothing_and_breaks_no_consumer() {
    let world = World::new();
    let consumer = world.consumer(Policy::default());
    world.queue("q").send(vec![message("a"), message("b")]).await.unwrap();
    let batch = consumer.lease().await.unwrap().unwrap();
    assert_eq!(world.queue("q").purge().await.unwrap(), 2);
    consumer.settle(batch, &[RETRY, RETRY]).await.unwrap();
    let info = world.queue("q").info().await.unwrap();
    assert_eq!((info.messages, info.bytes), (0, 0));
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_so() {
    let world = World::new();
    let queue = world.queue("q");
    let large = || vec![crate::NewMessage { body: vec![0; MAX_MESSAGE_BYTES], ..message("") }; 2];
    assert_eq!(queue.send(large()).await.unwrap().backlog_bytes, MAX_BATCH_BYTES as u64);
    // As if the rest of it were full: a gigabyte would have to be written.
    let path = world.folder.path().join("queues/q.sqlite3");
    let other = host_state::rusqlite::Connection::open(path).unwrap();
    other.execute("UPDATE queue SET bytes = ?1", [MAX_BYTES as i64 - 5]).unwrap();
    let refused = queue.send(vec![message("123456")]).await.unwrap_err();
    assert!(matches!(refused, QueueError::Full { .. }), "{refused}");
    assert!(!refused.is_refusal() && refused.to_string().contains("`host queues purge q` empties it"));
    queue.send(vec![message("12345")]).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_queue_is_an_error_with_its_name() {
    let world = World::new();
    std::fs::create_dir_all(world.folder.path().join("queues")).unwrap();
    std::fs::write(world.folder.path().join("queues/q.sqlite3"), b"not a database").unwrap();
    let error = world.queue("q").send(vec![message("a")]).await.unwrap_err();
    assert!(error.to_string().contains("q.sqlite3"), "{error}");
    assert_eq!(std::fs::read(world.folder.path().join("queues/q.sqlite3")).unwrap(), b"not a database");
}
