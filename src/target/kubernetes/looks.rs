//! Objects that were applied and are to be looked at.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::pause::Pause;
use super::resources::Resource;
use crate::limits;
use crate::protocol::ObjectRef;

/// One look for each object, in the order of their applies; at most [`limits::APPLIED_WAITING`].
#[derive(Default)]
pub(super) struct Looks {
    open: Mutex<Open>,
    added: Notify,
}

#[derive(Default)]
struct Open {
    waiting: VecDeque<Waiting>,
    /// Looks so far.
    count: u64,
}

struct Waiting {
    look: Look,
    asked: Instant,
    due: Instant,
    pause: Pause,
}

/// What is to be looked at.
#[derive(Clone)]
pub(super) struct Look {
    pub(super) resource: Resource,
    pub(super) reference: ObjectRef,
    /// Tells the looks at one object apart.
    number: u64,
}

impl Looks {
    /// Has an object looked at, at once.
    pub(super) fn add(&self, resource: &Resource, reference: &ObjectRef) {
        let mut open = self.open();
        open.count += 1;
        let look = Look { resource: resource.clone(), reference: reference.clone(), number: open.count };
        // One look answers two applies of the same object, if it comes after both.
        open.waiting.retain(|waiting| waiting.look.reference.uid != reference.uid);
        if open.waiting.len() == limits::APPLIED_WAITING {
            open.waiting.pop_front();
        }
        let now = Instant::now();
        let pause = Pause::new(2 * limits::BACKOFF_FLOOR, limits::WATCH_BACKOFF_CAP);
        open.waiting.push_back(Waiting { look, asked: now, due: now, pause });
        drop(open);
        self.added.notify_one();
    }

    /// The next look, when it is due. It stays until it is answered.
    pub(super) async fn next(&self) -> Look {
        loop {
            let first = {
                let open = self.open();
                open.waiting.iter().min_by_key(|waiting| waiting.due).map(|first| (first.due, first.look.clone()))
            };
            match first {
                Some((due, look)) if due <= Instant::now() => return look,
                Some((due, _)) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.added.notified() => {}
                },
                None => self.added.notified().await,
            }
        }
    }

    /// A look was told.
    pub(super) fn answered(&self, look: &Look) {
        self.open().waiting.retain(|waiting| waiting.look.number != look.number);
    }

    /// A look had no answer, and is repeated for as long as anybody may be waiting for it.
    pub(super) fn postpone(&self, look: &Look) {
        let now = Instant::now();
        self.open().waiting.retain_mut(|waiting| {
            if waiting.look.number == look.number {
                waiting.due = now + waiting.pause.next();
            }
            now.duration_since(waiting.asked) < limits::READY_TIMEOUT_MAX
        });
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Look, Looks};
    use crate::limits;
    use crate::protocol::ObjectRef;
    use crate::target::kubernetes::resources::Resource;
    use std::time::{Duration, Instant};

    fn add(looks: &Looks, name: &str) {
        let resource = Resource {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            plural: "configmaps".to_owned(),
            namespaced: true,
        };
        looks.add(&resource, &ObjectRef { name: name.into(), uid: name.into(), ..ObjectRef::default() });
    }

    /// What is due now.
    async fn due(looks: &Looks) -> Option<Look> {
        tokio::time::timeout(Duration::from_millis(20), looks.next()).await.ok()
    }

    #[tokio::test]
    async fn a_look_stays_until_it_is_answered_and_a_failed_one_waits() {
        let looks = Looks::default();
        assert!(due(&looks).await.is_none());
        add(&looks, "a");
        add(&looks, "b");
        let first = due(&looks).await.unwrap();
        assert_eq!(first.reference.name, "a");
        assert_eq!(due(&looks).await.unwrap().reference.name, "a", "nobody answered it");
        let begin = Instant::now();
        looks.postpone(&first);
        let second = due(&looks).await.unwrap();
        assert_eq!(second.reference.name, "b", "one that fails does not hold up the others");
        looks.answered(&second);
        // On a machine that is held up it may be due by now.
        assert!(due(&looks).await.is_none() || begin.elapsed() >= limits::BACKOFF_FLOOR, "nothing is hammered");
        let again = tokio::time::timeout(3 * limits::BACKOFF_FLOOR, looks.next()).await.unwrap();
        assert_eq!(again.reference.name, "a");
        // It is applied again meanwhile: what is under way may be older than that.
        add(&looks, "a");
        looks.answered(&again);
        assert_eq!(due(&looks).await.unwrap().reference.name, "a");
    }

    #[tokio::test]
    async fn as_many_looks_wait_as_are_allowed_and_one_for_each_object() {
        let looks = Looks::default();
        let names: Vec<String> = (0..=limits::APPLIED_WAITING).map(|number| number.to_string()).collect();
        for name in names.iter().chain(&names) {
            add(&looks, name);
        }
        let mut seen = Vec::new();
        while let Some(look) = due(&looks).await {
            looks.answered(&look);
            seen.push(look.reference.name);
        }
        assert_eq!(seen, names[1..], "the oldest one made room");
    }
}
