//! P1.5: jobs are worked in the order of `seq` when they carry one, else of the list.

use super::super::gate::outer;
use crate::link::stream::Arrival;
use crate::protocol::Job;
use crate::trust::signature::{Rank, rank};

/// The jobs of an answer in the order in which they are worked. Each key counts for itself: jobs of one key are put in
/// the order of their numbers, in the places that the list gave them. Nothing is verified yet: whoever writes the
/// list decides its order anyway.
pub(super) fn in_sequence(jobs: Vec<Arrival>) -> Vec<Arrival> {
    if jobs.len() < 2 {
        return jobs;
    }
    let ranked = |(at, arrival): (usize, &Arrival)| rank_of(arrival).map(|rank| (rank, at));
    let mut by_number: Vec<(Rank, usize)> = jobs.iter().enumerate().filter_map(ranked).collect();
    let mut by_place = by_number.clone();
    by_number.sort_by_key(|(rank, at)| (rank.kid, rank.epoch, rank.seq, *at));
    by_place.sort_by_key(|(rank, at)| (rank.kid, rank.epoch, *at));
    let mut source: Vec<usize> = (0..jobs.len()).collect();
    for ((_, place), (_, from)) in by_place.into_iter().zip(by_number) {
        if let Some(slot) = source.get_mut(place) {
            *slot = from;
        }
    }
    let mut jobs: Vec<Option<Arrival>> = jobs.into_iter().map(Some).collect();
    source.into_iter().filter_map(|from| jobs.get_mut(from)?.take()).collect()
}

fn rank_of(arrival: &Arrival) -> Option<Rank> {
    let Arrival::Job(text) = arrival else { return None };
    let job = Job::parse(text).ok()?;
    rank(outer(&job).signature?)
}

#[cfg(test)]
mod tests {
    use super::in_sequence;
    use crate::link::stream::{Arrival, Limit};
    use crate::trust::base64url;

    fn job(id: &str, key: u8, seq: u64) -> Arrival {
        let header = format!(
            r#"{{"alg":"Ed25519","b64":false,"crit":["b64"],"typ":"edge-job+jws","kid":"{}","epoch":1,"aud":"c","jti":"{id}","kind":"apply","seq":{seq},"iat":1,"exp":2}}"#,
            base64url::encode(&[key; 32]),
        );
        let signature = format!("{}..{}", base64url::encode(header.as_bytes()), base64url::encode(&[0; 64]));
        Arrival::Job(format!(r#"{{"id":"{id}","kind":"apply","payload":{{}},"signature":"{signature}"}}"#).into())
    }

    fn plain(id: &str) -> Arrival {
        Arrival::Job(format!(r#"{{"id":"{id}","kind":"apply","payload":{{}}}}"#).into())
    }

    fn ids(jobs: Vec<Arrival>) -> Vec<String> {
        let id = |arrival: Arrival| match arrival {
            Arrival::Job(text) => text.split('"').nth(3).unwrap().to_owned(),
            Arrival::Skipped { .. } => "skipped".to_owned(),
        };
        in_sequence(jobs).into_iter().map(id).collect()
    }

    #[test]
    fn each_key_counts_for_itself_and_the_others_stay_where_they_are() {
        let skipped = Arrival::Skipped { id: None, limit: Limit::Bytes };
        let jobs = vec![job("c", 1, 9), plain("x"), job("z", 2, 1), job("a", 1, 7), skipped, job("b", 1, 8)];
        assert_eq!(ids(jobs), ["a", "x", "z", "b", "skipped", "c"]);
    }

    #[test]
    fn the_list_decides_between_equal_numbers_and_where_there_are_none() {
        assert_eq!(ids(vec![job("b", 1, 7), job("a", 1, 7)]), ["b", "a"]);
        assert_eq!(ids(vec![plain("b"), plain("a")]), ["b", "a"]);
        assert_eq!(ids(vec![plain("only")]), ["only"]);
        assert!(in_sequence(Vec::new()).is_empty());
    }

    #[test]
    fn what_is_no_job_or_no_signature_has_no_number() {
        let noise = |text: &str| Arrival::Job(text.into());
        let jobs =
            vec![noise("no json"), noise(r#"{"id":"s","kind":"apply","payload":{},"signature":"@@"}"#), job("a", 1, 1)];
        assert_eq!(in_sequence(jobs).len(), 3);
    }
}
