//! Writes the time of day as RFC 3339 without asking anyone for a time zone.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

thread_local! {
    /// The last whole second written on this thread: nearly every line falls into it.
    static SECOND: Cell<(u64, [u8; 19])> = const { Cell::new((u64::MAX, [0; 19])) };
}

/// Appends `now` in UTC with microseconds, as `2026-11-22T10:15:30.123456Z`.
pub fn write_rfc3339(out: &mut Vec<u8>, now: SystemTime) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (cached_at, cached) = SECOND.get();
    let text = if cached_at == since.as_secs() {
        cached
    } else {
        let text = civil(since.as_secs());
        SECOND.set((since.as_secs(), text));
        text
    };
    out.extend_from_slice(&text);
    let mut fraction = *b".000000Z";
    let mut micros = since.subsec_micros();
    for digit in fraction[1..7].iter_mut().rev() {
        *digit = b'0' + (micros % 10) as u8;
        micros /= 10;
    }
    out.extend_from_slice(&fraction);
}

/// A moment in UTC to the second, as `2026-11-22T10:15:30Z`.
pub fn rfc3339(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{}Z", String::from_utf8_lossy(&civil(since.as_secs())))
}

/// Days to a civil date in the proleptic Gregorian calendar, by counting from 0000-03-01 so that a
/// leap day ends its year.
fn civil(seconds: u64) -> [u8; 19] {
    let (days, second_of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for digit in text[at..at + width].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, second_of_day / 3_600);
    put(14, 2, second_of_day / 60 % 60);
    put(17, 2, second_of_day % 60);
    text
}

#[cfg(test)]
mod tests {
    use super::write_rfc3339;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates_are_civil() {
        let rows = [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000001Z"),
            (1_709_251_199, 999_999, "2024-02-29T23:59:59.999999Z"),
            (1_795_342_530, 123_456, "2026-11-22T10:15:30.123456Z"),
            (4_102_444_800, 0, "2100-01-01T00:00:00.000000Z"),
        ];
        for (seconds, micros, expected) in rows {
            let now = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
            for _ in 0..2 {
                let mut out = Vec::new();
                write_rfc3339(&mut out, now);
                assert_eq!(String::from_utf8_lossy(&out), expected);
            }
        }
    }
}
