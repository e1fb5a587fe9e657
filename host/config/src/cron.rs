//! The grammar of cron schedules, so that a schedule that would never fire is found when the file is read.
//!
//! Five fields: minute, hour, day of the month, month, day of the week. Each is a list of `*`, values and ranges, with
//! steps; months and weekdays have names; `L`, `W` and `#` as in Quartz ("Cron Triggers", Cloudflare's documentation).

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CronError {
    #[error("it has {0} fields")]
    Fields(usize),
    #[error("the {0} is wrong")]
    Field(&'static str),
}

struct Field {
    title: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
    /// Characters of Quartz that the field takes after or instead of a value.
    marks: &'static str,
}

const FIELDS: [Field; 5] = [
    Field { title: "minute", least: 0, most: 59, names: &[], marks: "" },
    Field { title: "hour", least: 0, most: 23, names: &[], marks: "" },
    Field { title: "day of the month", least: 1, most: 31, names: &[], marks: "LW" },
    Field {
        title: "month",
        least: 1,
        most: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
        marks: "",
    },
    Field {
        title: "day of the week",
        least: 0,
        most: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
        marks: "L#",
    },
];

/// Checks a schedule.
pub(crate) fn check(schedule: &str) -> Result<(), CronError> {
    let fields: Vec<&str> = schedule.split_ascii_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(CronError::Fields(fields.len()));
    }
    for (text, field) in fields.iter().zip(&FIELDS) {
        if !text.split(',').all(|item| field.item(item)) {
            return Err(CronError::Field(field.title));
        }
    }
    Ok(())
}

impl Field {
    /// `*`, `value`, `value-value`, each with `/step`, or a form with one of the marks.
    fn item(&self, item: &str) -> bool {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let step_fits = step.is_none_or(|step| number(step).is_some_and(|step| (1..=self.most).contains(&step)));
        step_fits && (self.range(range) || (step.is_none() && self.marked(range)))
    }

    fn range(&self, range: &str) -> bool {
        match range.split_once('-') {
            _ if range == "*" => true,
            Some((from, to)) => match (self.value(from), self.value(to)) {
                (Some(from), Some(to)) => from <= to,
                _ => false,
            },
            None => self.value(range).is_some(),
        }
    }

    fn marked(&self, text: &str) -> bool {
        if self.marks.contains('#')
            && let Some((day, nth)) = text.split_once('#')
        {
            return self.value(day).is_some() && number(nth).is_some_and(|nth| (1..=5).contains(&nth));
        }
        let Some(mark) = text.chars().last().map(|c| c.to_ascii_uppercase()) else { return false };
        let before = text.strip_suffix(|c: char| c.eq_ignore_ascii_case(&mark)).unwrap_or_default();
        match mark {
            'L' if self.marks.contains('L') => before.is_empty() || self.value(before).is_some(),
            'W' if self.marks.contains('W') => before.eq_ignore_ascii_case("L") || self.value(before).is_some(),
            _ => false,
        }
    }

    fn value(&self, text: &str) -> Option<u32> {
        let name = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = match name {
            Some(at) => self.least + u32::try_from(at).ok()?,
            None => number(text)?,
        };
        (self.least..=self.most).contains(&value).then_some(value)
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_checked_by_field() {
        for good in
            ["*/5 * * * *", "0 17 * * sun", "10,20-30/2 7 1 JAN-MAR 1-5", "0 0 L * *", "0 0 LW * 5L", "0 0 15W * MON#2"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let cases = [
            ("", CronError::Fields(0)),
            ("* * * * * *", CronError::Fields(6)),
            ("60 * * * *", CronError::Field("minute")),
            ("*/0 * * * *", CronError::Field("minute")),
            ("* 5-3 * * *", CronError::Field("hour")),
            ("* * 0 * *", CronError::Field("day of the month")),
            ("* * * 13 *", CronError::Field("month")),
            ("* * * * 8", CronError::Field("day of the week")),
            ("* * * * MON#6", CronError::Field("day of the week")),
            ("L * * * *", CronError::Field("minute")),
            ("*,, * * * *", CronError::Field("minute")),
            ("\u{fc} * * * *", CronError::Field("minute")),
        ];
        for (schedule, expected) in cases {
            assert_eq!(check(schedule), Err(expected), "{schedule}");
        }
    }
}
