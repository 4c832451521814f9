//! What the conditions of owned objects were when we last looked, as one hash each.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::drift::Owned;
use super::object::Object;
use crate::limits;
use crate::protocol::Condition;

/// How a object that is not known yet is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newcomer {
    /// All its conditions are news.
    Appeared,
    /// It was there before us: nothing is news.
    WasThere,
}

/// An object that is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vanished {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// At most [`limits::OBSERVED_OBJECTS`] objects of all kinds. It is in memory for as long as they are owned: a table with its
/// empty places and a text for each name took twice as much.
pub(super) struct Baseline {
    /// In the order of their uid.
    objects: Vec<Tracked>,
    hasher: RandomState,
    /// Sightings of objects that found no room, with their conditions or their fields.
    untracked: u64,
    /// Fields of all objects that are compared.
    fields: usize,
    has_warned_of_fields: bool,
}

struct Tracked {
    /// Its uid, its namespace and its name, between slashes. The last two have none in them.
    called: Box<str>,
    /// Of each condition, with its type.
    conditions: Box<[u64]>,
    /// Which of its fields were ours.
    owned: Option<Owned>,
    /// The list in which it was last seen.
    round: u64,
    kind: usize,
}

impl Tracked {
    fn vanished(&self) -> Vanished {
        let mut parts = self.called.rsplitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (name, namespace, uid) = (next(), next(), next());
        Vanished { uid, namespace, name }
    }

    fn uid(&self) -> &str {
        self.called.rsplitn(3, '/').last().unwrap_or_default()
    }

    /// Fields that are compared.
    fn compared(&self) -> usize {
        self.owned.as_ref().map_or(0, Owned::len)
    }
}

impl Baseline {
    pub(super) fn new() -> Self {
        Self { objects: Vec::new(), hasher: RandomState::new(), untracked: 0, fields: 0, has_warned_of_fields: false }
    }

    /// Where an object is, or where it would be.
    fn place(&self, uid: &str) -> Result<usize, usize> {
        self.objects.binary_search_by(|tracked| tracked.uid().cmp(uid))
    }

    fn get_mut(&mut self, uid: &str) -> Option<&mut Tracked> {
        let at = self.place(uid).ok()?;
        self.objects.get_mut(at)
    }

    /// Takes an object as it is now, and gives those of its conditions that are news.
    pub(super) fn take(&mut self, kind: usize, round: u64, newcomer: Newcomer, object: &Object) -> Vec<Condition> {
        let now: Box<[u64]> = object.conditions.iter().map(|condition| self.hash(condition)).collect();
        if let Some(tracked) = self.get_mut(&object.uid) {
            let before = std::mem::replace(&mut tracked.conditions, now);
            tracked.round = round;
            let news = object.conditions.iter().zip(&tracked.conditions).filter(|(_, hash)| !before.contains(hash));
            return news.map(|(condition, _)| condition.clone()).collect();
        }
        if self.objects.len() == limits::OBSERVED_OBJECTS || object.uid.is_empty() {
            if self.untracked == 0 {
                tracing::warn!(
                    bound = limits::OBSERVED_OBJECTS,
                    "more owned objects than are compared: changes of further ones are not reported"
                );
            }
            self.untracked += 1;
            return Vec::new();
        }
        let called = [object.uid.as_str(), &object.namespace, &object.name].join("/").into();
        let (Ok(at) | Err(at)) = self.place(&object.uid);
        self.objects.insert(at, Tracked { called, conditions: now, owned: None, round, kind });
        match newcomer {
            Newcomer::Appeared => object.conditions.clone(),
            Newcomer::WasThere => Vec::new(),
        }
    }

    /// Takes which fields of a tracked object are ours now, and gives those that somebody else changed since, each once.
    pub(super) fn take_fields(&mut self, object: &Object) -> Vec<u32> {
        let Some(now) = &object.owned else { return Vec::new() };
        let Ok(at) = self.place(&object.uid) else { return Vec::new() };
        let tracked = &mut self.objects[at];
        let lost = tracked.owned.as_ref().map(|before| before.lost(now)).unwrap_or_default();
        if tracked.owned.as_ref() != Some(now) {
            self.fields -= tracked.compared();
            let has_room = self.fields + now.len() <= limits::COMPARED_FIELDS;
            tracked.owned = has_room.then(|| now.clone());
            self.fields += tracked.compared();
            if !has_room {
                self.untracked += 1;
                if !std::mem::replace(&mut self.has_warned_of_fields, true) {
                    tracing::warn!(
                        bound = limits::COMPARED_FIELDS,
                        "more fields of owned objects than are compared: what others change of further objects is not told"
                    );
                }
            }
        }
        lost
    }

    /// How often an object was seen that found no room.
    pub(super) fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Forgets an object.
    pub(super) fn forget(&mut self, uid: &str) {
        if let Ok(at) = self.place(uid) {
            self.fields -= self.objects.remove(at).compared();
        }
    }

    /// Forgets the objects of a kind that were not seen in this round, and names them.
    pub(super) fn sweep(&mut self, kind: usize, round: u64) -> Vec<Vanished> {
        let fields = &mut self.fields;
        let gone = self.objects.extract_if(.., |tracked| tracked.kind == kind && tracked.round != round);
        gone.inspect(|tracked| *fields -= tracked.compared()).map(|tracked| tracked.vanished()).collect()
    }

    fn hash(&self, condition: &Condition) -> u64 {
        self.hasher.hash_one((&condition.kind, &condition.status, &condition.reason, &condition.message))
    }
}

#[cfg(test)]
mod tests {
    use super::{Baseline, Newcomer, Vanished};
    use crate::limits;
    use crate::protocol::Condition;
    use crate::target::kubernetes::object::Object;

    fn object(uid: &str, conditions: &[(&str, &str)]) -> Object {
        let condition = |(kind, status): &(&str, &str)| Condition {
            kind: (*kind).to_owned(),
            status: (*status).to_owned(),
            observed_generation: None,
            last_transition_time: None,
            reason: String::new(),
            message: String::new(),
        };
        Object {
            uid: uid.to_owned(),
            name: uid.to_owned(),
            conditions: conditions.iter().map(condition).collect(),
            ..Object::default()
        }
    }

    fn kinds(news: &[Condition]) -> Vec<&str> {
        news.iter().map(|condition| condition.kind.as_str()).collect()
    }

    #[test]
    fn what_was_there_is_no_news_and_what_changes_is() {
        let mut baseline = Baseline::new();
        let before = object("u", &[("Ready", "False"), ("Blocked", "False")]);
        assert!(baseline.take(0, 1, Newcomer::WasThere, &before).is_empty());
        assert!(baseline.take(0, 1, Newcomer::Appeared, &before).is_empty());
        let after = object("u", &[("Ready", "True"), ("Blocked", "False"), ("Extra", "True")]);
        assert_eq!(kinds(&baseline.take(0, 1, Newcomer::Appeared, &after)), ["Ready", "Extra"]);
        assert_eq!(kinds(&baseline.take(0, 1, Newcomer::Appeared, &object("v", &[("Ready", "True")]))), ["Ready"]);
    }

    #[test]
    fn a_change_of_the_transition_time_alone_is_no_news() {
        let mut baseline = Baseline::new();
        let mut object = object("u", &[("Ready", "True")]);
        baseline.take(0, 1, Newcomer::WasThere, &object);
        object.conditions[0].last_transition_time = Some(crate::protocol::Timestamp::from_unix_seconds(1));
        assert!(baseline.take(0, 1, Newcomer::WasThere, &object).is_empty());
    }

    #[test]
    fn what_is_not_in_the_list_any_more_has_vanished() {
        let mut baseline = Baseline::new();
        for (kind, uid) in [(0, "a"), (0, "b"), (1, "c")] {
            baseline.take(kind, 1, Newcomer::WasThere, &object(uid, &[]));
        }
        baseline.take(0, 2, Newcomer::Appeared, &object("a", &[]));
        let gone = baseline.sweep(0, 2);
        assert_eq!(gone, [Vanished { uid: "b".into(), namespace: String::new(), name: "b".into() }]);
        assert!(baseline.sweep(0, 2).is_empty());
    }

    #[test]
    fn an_object_is_found_by_its_uid_alone_in_whatever_order_they_come() {
        let mut baseline = Baseline::new();
        let called = |uid: &str, namespace: &str| Object {
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            name: "one".to_owned(),
            ..Object::default()
        };
        // One is the beginning of the next, and one has a slash of its own.
        let uids = ["u/2", "u", "b", "u1", "a", "u-1"];
        for uid in uids {
            baseline.take(0, 1, Newcomer::Appeared, &called(uid, "shop"));
        }
        for uid in uids {
            baseline.take(0, 2, Newcomer::Appeared, &called(uid, ""));
        }
        assert_eq!(baseline.objects.len(), uids.len());
        baseline.forget("u");
        baseline.forget("nobody");
        let mut gone: Vec<_> =
            baseline.sweep(0, 3).into_iter().map(|gone| (gone.uid, gone.namespace, gone.name)).collect();
        gone.sort();
        let expected = ["a", "b", "u-1", "u/2", "u1"].map(|uid| (uid.to_owned(), "shop".to_owned(), "one".to_owned()));
        assert_eq!(gone, expected);
    }

    #[test]
    fn one_object_over_the_bound_is_counted_and_never_news() {
        let mut baseline = Baseline::new();
        for at in 0..limits::OBSERVED_OBJECTS {
            assert_eq!(baseline.take(0, 1, Newcomer::Appeared, &object(&at.to_string(), &[("A", "x")])).len(), 1);
        }
        let over = object("over", &[("A", "x")]);
        assert!(baseline.take(0, 1, Newcomer::Appeared, &over).is_empty());
        assert_eq!(baseline.untracked, 1);
        baseline.forget("0");
        assert_eq!(baseline.take(0, 1, Newcomer::Appeared, &over).len(), 1);
    }
}
