//! Days and dates of the Gregorian calendar, as far as four digits write a year.

/// A year, a month and a day, each counted as people do: 1970, 1, 1.
pub type Date = (i64, i64, i64);

/// Days from 1970-01-01 to the first of March of the year 0. Years begin in March here, so that the leap day is the
/// last of its year, and are counted in eras of 400.
const MARCH_OF_YEAR_0: i64 = -719_468;

const ERA: i64 = 146_097;

/// The date of a day since 1970-01-01.
#[must_use]
pub fn date_of(day: i64) -> Date {
    // No day that a clock can say is anywhere near the bounds of an i64.
    let day = day.saturating_sub(MARCH_OF_YEAR_0);
    let (era, day_of_era) = (day.div_euclid(ERA), day.rem_euclid(ERA));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// The day since 1970-01-01 of a date of the years 0 to 9999. A day that its month does not have is one of the next.
#[must_use]
pub fn day_of((year, month, day): Date) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * ERA + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year + MARCH_OF_YEAR_0
}

#[cfg(test)]
mod tests {
    use super::{date_of, day_of};

    /// Every day of five eras, counted as people count them.
    #[test]
    fn days_and_dates_are_those_of_the_calendar() {
        let mut day = day_of((0, 1, 1));
        assert_eq!(day, -719_528);
        for year in 0..=2_400 {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let months = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            for (month, days) in (1..).zip(months) {
                for date in 1..=days {
                    assert_eq!((date_of(day), day_of((year, month, date))), ((year, month, date), day));
                    day += 1;
                }
            }
        }
    }

    #[test]
    fn days_that_are_known_otherwise() {
        assert_eq!(date_of(0), (1970, 1, 1));
        assert_eq!(date_of(20_783), (2026, 11, 26));
        assert_eq!(date_of(2_932_896), (9999, 12, 31));
        assert_eq!(day_of((2027, 2, 29)), day_of((2027, 3, 1)));
    }
}
