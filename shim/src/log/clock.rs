//! The time of a log line: RFC 3339 with nanoseconds, UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a time.
pub const LENGTH: usize = "2006-01-02T15:04:05.000000000Z".len();

/// A time as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    text: [u8; LENGTH],
}

impl Stamp {
    /// The time it is.
    pub fn now() -> Self {
        Self::new(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.text
    }

    fn new(since_epoch: Duration) -> Self {
        let seconds = since_epoch.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let of_day = seconds % 86_400;
        let mut stamp = Self { text: *b"0000-00-00T00:00:00.000000000Z" };
        stamp.put(0..4, year);
        stamp.put(5..7, month);
        stamp.put(8..10, day);
        stamp.put(11..13, of_day / 3600);
        stamp.put(14..16, of_day / 60 % 60);
        stamp.put(17..19, of_day % 60);
        stamp.put(20..29, since_epoch.subsec_nanos().into());
        stamp
    }

    fn put(&mut self, place: std::ops::Range<usize>, mut number: u64) {
        for byte in self.text[place].iter_mut().rev() {
            // One decimal digit.
            *byte = b'0' + (number % 10).to_le_bytes()[0];
            number /= 10;
        }
    }
}

/// Year, month and day of a day since 1970. The calendar repeats every 400 years (146097 days); a year that begins in
/// March has its leap day last, and its months have 30.6 days on average.
fn date(days: u64) -> (u64, u64, u64) {
    // Days since the first of March of the year 0.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let of_era_year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_era_year + of_era_year / 4 - of_era_year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + of_era_year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        let known = [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 999_999_999, "2000-02-28T23:59:59.999999999Z"),
            (951_868_799, 0, "2000-02-29T23:59:59.000000000Z"),
            (951_868_800, 1, "2000-03-01T00:00:00.000000001Z"),
            (1_709_164_800, 0, "2024-02-29T00:00:00.000000000Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
        ];
        for (seconds, nanoseconds, text) in known {
            let stamp = Stamp::new(Duration::new(seconds, nanoseconds));
            assert_eq!(std::str::from_utf8(stamp.as_bytes()), Ok(text));
        }
    }
}
