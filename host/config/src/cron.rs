//! Cron schedules: which texts are some, and when they fire. All times are UTC.
//!
//! Five fields: minute, hour, day of the month, month, day of the week. Each is a list of `*`, values and ranges, with
//! steps; months and weekdays have names; `L`, `W` and `#` as in Quartz ("Cron Triggers", Cloudflare's documentation).
//! Two things differ from the cron of Unix, as they do there:
//!
//! - Weekdays are numbered 1 for Sunday to 7 for Saturday, so `2-6` is Monday to Friday. Names mean the same everywhere.
//!   0, which Quartz has not got, is Sunday too.
//! - `L` is the last day of a month or, after a weekday, the last of these in it; `15W` is the weekday nearest to the
//!   15th; `LW` is the last weekday; `MON#2` is the second Monday.
//!
//! Where both days are restricted, either is enough, as in every cron.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// There are more or fewer than five fields.
    #[error("it has {0} fields")]
    Fields(usize),
    /// A field is none.
    #[error("the {0} is wrong")]
    Field(&'static str),
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    months: u64,
    days: Days,
    weekdays: Days,
}

/// A field of days.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Days {
    /// Whether it is `*`, so that the other field decides alone.
    any: bool,
    /// A bit for each day: of the month from 1, of the week from 1 for Sunday.
    set: u64,
    /// `L`, in days of the month.
    last: bool,
    /// `LW`.
    last_weekday: bool,
    /// `15W`.
    nearest: u64,
    /// `6L`, by weekday.
    last_of: u64,
    /// `MON#2`: by number of the week and weekday.
    nth: [u64; 6],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks {
    None,
    OfMonth,
    OfWeek,
}

struct Field {
    title: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
    /// What the first name stands for.
    first: u32,
    marks: Marks,
}

const MINUTE: Field = Field { title: "minute", least: 0, most: 59, names: &[], first: 0, marks: Marks::None };
const HOUR: Field = Field { title: "hour", most: 23, ..MINUTE };
const DAY: Field = Field { title: "day of the month", least: 1, most: 31, marks: Marks::OfMonth, ..MINUTE };
const MONTH: Field = Field {
    title: "month",
    least: 1,
    most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    first: 1,
    marks: Marks::None,
};
const WEEKDAY: Field = Field {
    title: "day of the week",
    least: 0,
    most: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    first: 1,
    marks: Marks::OfWeek,
};

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let &[minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(CronError::Fields(fields.len()));
        };
        let mut weekdays = WEEKDAY.read(weekdays)?;
        // Both numbers of Sunday are one day.
        weekdays.set = weekdays.set & !1 | (weekdays.set & 1) << 1;
        Ok(Self {
            text: text.to_owned(),
            minutes: MINUTE.read(minutes)?.set,
            hours: HOUR.read(hours)?.set,
            days: DAY.read(days)?,
            months: MONTH.read(months)?.set,
            weekdays,
        })
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Cron {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl Field {
    fn read(&self, text: &str) -> Result<Days, CronError> {
        let mut days = Days { any: text == "*", ..Days::default() };
        for item in text.split(',') {
            self.item(item, &mut days).ok_or(CronError::Field(self.title))?;
        }
        Ok(days)
    }

    /// `*`, `value`, `value-value`, each with `/step`, or a form with one of the marks.
    fn item(&self, item: &str, days: &mut Days) -> Option<()> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(number(step).filter(|step| (1..=self.most).contains(step))?)),
            None => (item, None),
        };
        if step.is_none() && self.mark(range, days).is_some() {
            return Some(());
        }
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((from, to)) => (self.value(from)?, self.value(to)?),
            // A value with a step counts on from there.
            None => (self.value(range)?, if step.is_some() { self.most } else { self.value(range)? }),
        };
        if from > to {
            return None;
        }
        (from..=to).step_by(step.unwrap_or(1) as usize).for_each(|value| days.set |= 1 << value);
        Some(())
    }

    fn mark(&self, text: &str, days: &mut Days) -> Option<()> {
        let last = text.strip_suffix(['L', 'l']);
        match self.marks {
            Marks::None => return None,
            Marks::OfMonth if last == Some("") => days.last = true,
            Marks::OfMonth => match text.strip_suffix(['W', 'w'])? {
                "L" | "l" => days.last_weekday = true,
                day => days.nearest |= 1 << self.value(day)?,
            },
            // Alone it is the last day of the week.
            Marks::OfWeek if last == Some("") => days.set |= 1 << 7,
            Marks::OfWeek => match (last, text.split_once('#')) {
                (Some(day), None) => days.last_of |= 1 << self.value(day)?.max(1),
                (None, Some((day, nth))) => {
                    let nth = number(nth).filter(|nth| (1..=5).contains(nth))?;
                    *days.nth.get_mut(nth as usize)? |= 1 << self.value(day)?.max(1);
                }
                _ => return None,
            },
        }
        Some(())
    }

    fn value(&self, text: &str) -> Option<u32> {
        let name = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = match name {
            Some(at) => self.first + u32::try_from(at).ok()?,
            None => number(text)?,
        };
        (self.least..=self.most).contains(&value).then_some(value)
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// Between two 29ths of February there are up to eight years, and a weekday may have to fit.
const FAR_DAYS: i64 = 41 * 366;

impl Cron {
    /// The first time after `ms` at which it fires, both in milliseconds since 1970; none if it never does, as on the 30th
    /// of February.
    pub fn next_after(&self, ms: i64) -> Option<i64> {
        // Beyond these years arithmetic would end before the calendar does.
        let start = ms.clamp(0, i64::MAX / 4).div_euclid(MINUTE_MS) + 1;
        let first_day = start.div_euclid(24 * 60);
        for day in first_day..first_day + FAR_DAYS {
            if !self.fires_on(day) {
                continue;
            }
            let from = if day == first_day { start.rem_euclid(24 * 60) } else { 0 };
            let fires = |minute: &i64| self.hours >> (minute / 60) & 1 == 1 && self.minutes >> (minute % 60) & 1 == 1;
            if let Some(minute) = (from..24 * 60).find(fires) {
                return Some(day * DAY_MS + minute * MINUTE_MS);
            }
        }
        None
    }

    /// Whether it fires at all on a day, counted from 1970.
    fn fires_on(&self, day: i64) -> bool {
        let date = Date::of(day);
        if self.months >> date.month & 1 == 0 {
            return false;
        }
        match (self.days.any, self.weekdays.any) {
            (true, true) => true,
            (true, false) => self.weekdays.of_week(&date),
            (false, true) => self.days.of_month(&date),
            (false, false) => self.days.of_month(&date) || self.weekdays.of_week(&date),
        }
    }
}

impl Days {
    fn of_month(&self, date: &Date) -> bool {
        let nearest =
            || (1..=date.length).any(|day| self.nearest >> day & 1 == 1 && date.nearest_weekday(day) == date.day);
        self.set >> date.day & 1 == 1
            || self.last && date.day == date.length
            || self.last_weekday && date.nearest_weekday(date.length) == date.day
            || nearest()
    }

    fn of_week(&self, date: &Date) -> bool {
        let is = |set: u64| set >> date.weekday & 1 == 1;
        let nth = ((date.day - 1) / 7 + 1) as usize;
        is(self.set) || is(self.last_of) && date.day + 7 > date.length || self.nth.get(nth).is_some_and(|set| is(*set))
    }
}

/// A day of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Date {
    month: u32,
    day: u32,
    /// 1 for Sunday.
    weekday: u32,
    /// Days of the month.
    length: u32,
}

impl Date {
    /// The date of a day after 1970: the Gregorian calendar in eras of 400 years that begin in March.
    fn of(day: i64) -> Self {
        let shifted = day + 719_468;
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => 31,
        };
        let small = |number: i64| u32::try_from(number).unwrap_or(0);
        // The first of January 1970 was a Thursday.
        Self { month: small(month), day: small(day_of_month), weekday: small((day + 4).rem_euclid(7) + 1), length }
    }

    /// The day from Monday to Friday that is nearest to a day of this month, in this month.
    fn nearest_weekday(&self, day: u32) -> u32 {
        let weekday = (i64::from(self.weekday) - 1 + i64::from(day) - i64::from(self.day)).rem_euclid(7);
        match weekday {
            6 if day == 1 => 3,
            6 => day - 1,
            0 if day == self.length => day - 2,
            0 => day + 1,
            _ => day,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_checked_by_field() {
        for good in
            ["*/5 * * * *", "0 17 * * sun", "10,20-30/2 7 1 JAN-MAR 1-5", "0 0 L * *", "0 0 LW * 5L", "0 0 15W * MON#2"]
        {
            assert_eq!(good.parse::<Cron>().map(|cron| cron.to_string()), Ok(good.to_owned()));
        }
        let cases = [
            ("", CronError::Fields(0)),
            ("* * * * * *", CronError::Fields(6)),
            ("60 * * * *", CronError::Field("minute")),
            ("*/0 * * * *", CronError::Field("minute")),
            ("* 5-3 * * *", CronError::Field("hour")),
            ("* * 0 * *", CronError::Field("day of the month")),
            ("* * 5L * *", CronError::Field("day of the month")),
            ("* * * 13 *", CronError::Field("month")),
            ("* * * * 8", CronError::Field("day of the week")),
            ("* * * * MON#6", CronError::Field("day of the week")),
            ("L * * * *", CronError::Field("minute")),
            ("*,, * * * *", CronError::Field("minute")),
            ("\u{fc} * * * *", CronError::Field("minute")),
        ];
        for (schedule, expected) in cases {
            assert_eq!(schedule.parse::<Cron>(), Err(expected), "{schedule}");
        }
    }

    /// The days since 1970 of a date, by counting.
    fn day_of(year: i64, month: u32, day: u32) -> i64 {
        let mut date = (1970, 0);
        loop {
            let found = Date::of(date.1);
            if found.month == 1 && found.day == 1 && date.1 > 0 {
                date.0 += 1;
            }
            if date.0 == year && found.month == month && found.day == day {
                return date.1;
            }
            date.1 += 1;
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let date = Date::of(0);
        assert_eq!(date, Date { month: 1, day: 1, weekday: 5, length: 31 });
        // 29 February 2024, a Thursday.
        assert_eq!(Date::of(19_782), Date { month: 2, day: 29, weekday: 5, length: 29 });
        assert_eq!(Date::of(19_783), Date { month: 3, day: 1, weekday: 6, length: 31 });
        assert_eq!(day_of(2024, 2, 29), 19_782);
    }

    #[test]
    fn schedules_fire_when_they_say() {
        // (schedule, after: year month day minute of the day, then: the same)
        let cases = [
            ("* * * * *", (2025, 1, 1, 0), (2025, 1, 1, 1)),
            ("*/15 * * * *", (2025, 1, 1, 15), (2025, 1, 1, 30)),
            ("5/20 * * * *", (2025, 1, 1, 5), (2025, 1, 1, 25)),
            ("0 17 * * *", (2025, 1, 1, 17 * 60), (2025, 1, 2, 17 * 60)),
            ("30 23 31 12 *", (2025, 1, 1, 0), (2025, 12, 31, 23 * 60 + 30)),
            // 1 January 2025 is a Wednesday, 4 on Cloudflare.
            ("0 0 * * 4", (2025, 1, 1, 0), (2025, 1, 8, 0)),
            ("0 0 * * wed", (2025, 1, 1, 0), (2025, 1, 8, 0)),
            ("0 0 * * 2-6", (2025, 1, 3, 0), (2025, 1, 6, 0)),
            ("0 0 * * mon-fri", (2025, 1, 3, 0), (2025, 1, 6, 0)),
            ("0 0 * * 1", (2025, 1, 1, 0), (2025, 1, 5, 0)),
            ("0 0 * * 0", (2025, 1, 1, 0), (2025, 1, 5, 0)),
            ("0 0 * * L", (2025, 1, 1, 0), (2025, 1, 4, 0)),
            ("0 0 * * 6L", (2025, 1, 1, 0), (2025, 1, 31, 0)),
            ("0 0 * * friL", (2025, 2, 1, 0), (2025, 2, 28, 0)),
            ("0 0 * * mon#2", (2025, 1, 1, 0), (2025, 1, 13, 0)),
            ("0 0 * * mon#5", (2025, 1, 1, 0), (2025, 3, 31, 0)),
            ("0 0 L * *", (2025, 1, 31, 0), (2025, 2, 28, 0)),
            // 31 May 2025 is a Saturday, 30 November a Sunday, 1 February a Saturday.
            ("0 0 LW 5 *", (2025, 1, 1, 0), (2025, 5, 30, 0)),
            ("0 0 LW 11 *", (2025, 1, 1, 0), (2025, 11, 28, 0)),
            ("0 0 1W 2 *", (2025, 1, 1, 0), (2025, 2, 3, 0)),
            ("0 0 15W 3 *", (2025, 1, 1, 0), (2025, 3, 14, 0)),
            ("0 0 15W 6 *", (2025, 1, 1, 0), (2025, 6, 16, 0)),
            // Either day is enough.
            ("0 0 13 * fri", (2025, 1, 10, 0), (2025, 1, 13, 0)),
            ("0 0 13 * fri", (2025, 1, 13, 0), (2025, 1, 17, 0)),
            ("0 0 29 2 *", (2096, 3, 1, 0), (2104, 2, 29, 0)),
        ];
        for (schedule, (year, month, day, minute), (then_year, then_month, then_day, then_minute)) in cases {
            let at = |year, month, day, minute: i64| day_of(year, month, day) * DAY_MS + minute * MINUTE_MS;
            let cron: Cron = schedule.parse().unwrap();
            let found = cron.next_after(at(year, month, day, minute));
            assert_eq!(found, Some(at(then_year, then_month, then_day, then_minute)), "{schedule}");
            // A moment into the minute is no other minute.
            assert_eq!(cron.next_after(at(year, month, day, minute) + 59_999), found, "{schedule}");
        }
        for never in ["0 0 30 2 *", "0 0 31 4,6 *"] {
            assert_eq!(never.parse::<Cron>().unwrap().next_after(0), None, "{never}");
        }
        let always: Cron = "* * * * *".parse().unwrap();
        assert!(always.next_after(i64::MAX).is_some() && always.next_after(i64::MIN).is_some());
    }
}
