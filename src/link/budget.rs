//! What a month may cost.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock;
use crate::metrics::{Bytes, Meter, Traffic};

/// Bytes to and from the control plane, counted by day and month, and how many a month may have. A clone counts for
/// the same.
///
/// Beyond the budget there are no polls, no statuses and no events: only results and a sign of life a day.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    limit: Option<u64>,
    meter: Meter,
    traffic: Arc<Mutex<Traffic>>,
}

impl Budget {
    /// Counts with this meter, going on where `traffic` was. Without a limit the budget is never used up.
    #[must_use]
    pub fn new(limit: Option<u64>, meter: Meter, traffic: Traffic) -> Self {
        Self { limit, meter, traffic: Arc::new(Mutex::new(traffic)) }
    }

    /// What this day and this month had so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.read(self.meter.total(), clock::unix_seconds());
        traffic.clone()
    }

    /// All since the start.
    #[must_use]
    pub fn total(&self) -> Bytes {
        self.meter.total()
    }

    /// What this month had so far.
    #[must_use]
    pub fn this_month(&self) -> Bytes {
        self.traffic().this_month()
    }

    /// Whether this month has had all it may have.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.limit.is_some_and(|limit| self.this_month().sum() >= limit)
    }

    /// How many bytes a month may have.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;
    use crate::metrics::{Meter, Traffic};

    #[test]
    fn the_last_byte_uses_it_up_and_without_a_limit_none_does() {
        let meter = Meter::default();
        let budget = Budget::new(Some(10), meter.clone(), Traffic::default());
        let endless = Budget::new(None, meter.clone(), Traffic::default());
        meter.add_sent(4);
        meter.add_received(5);
        assert!(!budget.is_used_up());
        meter.add_received(1);
        assert!(budget.is_used_up() && !endless.is_used_up());
        assert_eq!((budget.this_month().sum(), endless.this_month().sum()), (10, 10));
    }
}
