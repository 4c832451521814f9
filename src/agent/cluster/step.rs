//! What is to be done, from what is seen of the Clusters. Pure: `super` does it.

use super::Seen;
use super::terms::{self, Unacceptable};
use crate::config::Config;
use crate::resources::{CLUSTER_FINALIZER, Cluster, ClusterSpec};

/// What is to be done while there is no line.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// It is being deleted.
    CleanUp(&'a Cluster),
    /// It asks for what cannot be done.
    Refuse(&'a Cluster, Unacceptable),
    /// It is served, by these terms.
    Serve(&'a Cluster, Box<Config>),
    /// None of them is ours.
    Wait,
}

/// What is to be done while the line is up.
#[derive(Debug)]
pub(super) enum Attention<'a> {
    /// Another line is asked for, or none.
    End,
    /// Nothing.
    Keep,
    /// Another credential.
    Rotate(&'a Cluster),
}

/// Which wish for another credential was fulfilled: that of a spec once for each change of the spec. That of an
/// annotation is one for as long as it is there.
#[derive(Debug, Default)]
pub(super) struct Heard(Option<(String, i64)>);

/// While there is no line.
pub(super) fn step<'a>(config: &Config, seen: &'a Seen) -> Step<'a> {
    let cluster = match seen {
        Seen::One(cluster) => cluster,
        // One that we served, which waits for us to let it go: perhaps it goes to make room for the other.
        Seen::Several(all) => {
            return all.iter().find(|cluster| is_ours_to_end(cluster)).map_or(Step::Wait, Step::CleanUp);
        }
        Seen::Unknown | Seen::Nothing => return Step::Wait,
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        // Without our finalizer it is done with: others hold it back.
        return if is_ours_to_end(cluster) { Step::CleanUp(cluster) } else { Step::Wait };
    }
    match terms::terms(config, cluster) {
        Ok(config) => Step::Serve(cluster, Box::new(config)),
        Err(unacceptable) => Step::Refuse(cluster, unacceptable),
    }
}

/// While the line is up that was begun for the Cluster `uid` as `spec` has it.
pub(super) fn attend<'a>(seen: &'a Seen, uid: &str, spec: &ClusterSpec, heard: &mut Heard) -> Attention<'a> {
    match seen {
        Seen::Unknown => Attention::Keep,
        Seen::One(cluster)
            if is_same(cluster, uid) && cluster.spec.as_ref().is_ok_and(|now| is_same_line(spec, now)) =>
        {
            if heard.is_wish(cluster) { Attention::Rotate(cluster) } else { Attention::Keep }
        }
        Seen::One(_) | Seen::Nothing | Seen::Several(_) => Attention::End,
    }
}

/// Whether what a registration rests on is still so: our own writes change the version of a Cluster, and nothing else.
pub(super) fn is_still(seen: &Seen, before: &Cluster) -> bool {
    let Seen::One(now) = seen else { return false };
    is_same(now, &before.metadata.uid) && now.spec == before.spec
}

fn is_ours_to_end(cluster: &Cluster) -> bool {
    let metadata = &cluster.metadata;
    metadata.deletion_timestamp.is_some() && metadata.finalizers.iter().flatten().any(|name| name == CLUSTER_FINALIZER)
}

fn is_same(cluster: &Cluster, uid: &str) -> bool {
    cluster.metadata.uid == uid && cluster.metadata.deletion_timestamp.is_none()
}

/// What of a spec is in effect while the line is up: a change of anything else leaves it alone.
fn is_same_line(before: &ClusterSpec, after: &ClusterSpec) -> bool {
    let bare = |spec: &ClusterSpec| ClusterSpec {
        registration_token_secret_ref: None,
        rotate_credentials: None,
        ..spec.clone()
    };
    bare(before) == bare(after)
}

impl Heard {
    /// Whether there is a wish that was not fulfilled.
    fn is_wish(&mut self, cluster: &Cluster) -> bool {
        let now = name(cluster);
        // What was in effect before this start was heard then, unless it failed.
        let has_failed = cluster.status.conditions.iter().any(|condition| condition.reason == "RotationFailed");
        let was_in_effect = cluster.status.observed_generation == Some(now.1) && !has_failed;
        let heard = self.0.get_or_insert_with(|| if was_in_effect { now.clone() } else { Default::default() });
        if !cluster.spec.as_ref().is_ok_and(|spec| spec.rotate_credentials == Some(true)) {
            heard.clone_from(&now);
        }
        cluster.wants_rotation() || *heard != now
    }

    /// What this Cluster asks for is done.
    pub(super) fn note(&mut self, cluster: &Cluster) {
        self.0 = Some(name(cluster));
    }
}

fn name(cluster: &Cluster) -> (String, i64) {
    (cluster.metadata.uid.clone(), cluster.metadata.generation)
}

#[cfg(test)]
mod tests {
    use super::{Attention, Heard, Seen, Step, attend, is_still, step};
    use crate::config::{Config, Settings};
    use crate::resources::{CLUSTER_FINALIZER, Cluster, ROTATE_ANNOTATION};

    const SPEC: &str = r#"{"controlPlaneEndpoint":"https://a"}"#;

    /// The first generation of one Cluster.
    fn cluster(spec: &str) -> Cluster {
        let text = format!(r#"{{"metadata":{{"name":"a","uid":"u","generation":1}},"spec":{spec}}}"#);
        Cluster::parse(text.as_bytes()).unwrap()
    }

    fn one(cluster: Cluster) -> Seen {
        Seen::One(Box::new(cluster))
    }

    fn changed(change: impl FnOnce(&mut Cluster)) -> Seen {
        let mut cluster = cluster(SPEC);
        change(&mut cluster);
        one(cluster)
    }

    fn going() -> Seen {
        changed(|cluster| cluster.metadata.deletion_timestamp = Some("2026-01-31T12:00:00Z".into()))
    }

    #[test]
    fn one_cluster_is_served_and_of_several_none() {
        let config = Config::new(Settings::default(), |_| None).unwrap();
        for nothing in [Seen::Unknown, Seen::Nothing, Seen::Several(vec![cluster(SPEC), cluster(SPEC)])] {
            assert!(matches!(step(&config, &nothing), Step::Wait), "{nothing:?}");
        }
        let seen = one(cluster(SPEC));
        let Step::Serve(_, terms) = step(&config, &seen) else { panic!("it is served") };
        assert_eq!(terms.endpoint.unwrap().to_string(), "https://a");
        for wrong in ["{}", "7", r#"{"connectivityMode":"teleport"}"#] {
            assert!(matches!(step(&config, &one(cluster(wrong))), Step::Refuse(..)), "{wrong}");
        }
        assert!(matches!(step(&config, &going()), Step::Wait), "somebody else holds it");
        // Of several, one that was served and is deleted goes, so that the other can be.
        let Seen::One(mut going) = going() else { panic!("it is one") };
        let seen = |going: &Cluster| Seen::Several(vec![cluster(SPEC), going.clone()]);
        assert!(matches!(step(&config, &seen(&going)), Step::Wait), "somebody else holds it");
        going.metadata.finalizers = Some(vec![CLUSTER_FINALIZER.to_owned()]);
        assert!(matches!(step(&config, &Seen::One(going.clone())), Step::CleanUp(_)));
        let several = seen(&going);
        let Step::CleanUp(gone) = step(&config, &several) else { panic!("it is let go") };
        assert!(gone.metadata.deletion_timestamp.is_some());
    }

    #[test]
    fn a_line_ends_with_what_it_was_begun_for() {
        let spec = cluster(SPEC).spec.unwrap();
        let look = |seen: &Seen| matches!(attend(seen, "u", &spec, &mut Heard::default()), Attention::End);
        assert!(!look(&one(cluster(SPEC))) && !look(&Seen::Unknown));
        let token = r#"{"controlPlaneEndpoint":"https://a","registrationTokenSecretRef":{"name":"t"}}"#;
        assert!(!look(&one(cluster(token))), "a token is for the next registration");
        for other in [
            r#"{"controlPlaneEndpoint":"https://b"}"#,
            r#"{"controlPlaneEndpoint":"https://a","policy":{}}"#,
            r#"{"controlPlaneEndpoint":7}"#,
        ] {
            assert!(look(&one(cluster(other))), "{other}");
        }
        assert!(look(&going()) && look(&Seen::Nothing) && look(&Seen::Several(Vec::new())));
        assert!(look(&changed(|cluster| cluster.metadata.uid = "another".into())));
    }

    #[test]
    fn a_registration_goes_on_while_nothing_it_rests_on_changes() {
        let before = cluster(SPEC);
        assert!(is_still(&changed(|cluster| cluster.metadata.resource_version = "9".into()), &before));
        assert!(!is_still(&one(cluster(r#"{"controlPlaneEndpoint":"https://b"}"#)), &before));
        assert!(!is_still(&going(), &before) && !is_still(&Seen::Nothing, &before));
    }

    #[test]
    fn a_wish_of_the_spec_is_heard_once_for_each_change_of_it() {
        let wish = |generation, observed| {
            let mut cluster = cluster(r#"{"rotateCredentials":true}"#);
            (cluster.metadata.generation, cluster.status.observed_generation) = (generation, observed);
            cluster
        };
        let mut heard = Heard::default();
        assert!(!heard.is_wish(&wish(1, Some(1))), "it was in effect before this start");
        assert!(heard.is_wish(&wish(2, Some(1))));
        assert!(heard.is_wish(&wish(2, Some(2))), "until it is done");
        heard.note(&wish(2, Some(2)));
        assert!(!heard.is_wish(&wish(2, Some(2))) && heard.is_wish(&wish(3, Some(2))));
        assert!(!heard.is_wish(&cluster("{}")) && heard.is_wish(&wish(3, Some(3))));
        assert!(Heard::default().is_wish(&wish(1, None)), "nobody has heard it");

        let mut failed = wish(1, Some(1));
        let condition = r#"{"metadata":{},"status":{"conditions":[{"type":"Authenticated","status":"False","reason":"RotationFailed"}]}}"#;
        failed.status.conditions = Cluster::parse(condition.as_bytes()).unwrap().status.conditions;
        let mut heard = Heard::default();
        assert!(heard.is_wish(&failed), "it failed before this start");
        assert!(heard.is_wish(&wish(1, Some(1))), "whatever is said of it meanwhile");
    }

    #[test]
    fn an_annotation_is_a_wish_for_as_long_as_it_is_there() {
        let mut asking = cluster("{}");
        asking.metadata.annotations = Some([(ROTATE_ANNOTATION.to_owned(), "now".to_owned())].into());
        let mut heard = Heard::default();
        assert!(heard.is_wish(&asking));
        heard.note(&asking);
        assert!(heard.is_wish(&asking) && !heard.is_wish(&cluster("{}")));
        let spec = asking.spec.clone().unwrap();
        assert!(matches!(attend(&one(asking), "u", &spec, &mut heard), Attention::Rotate(_)));
    }
}
