//! Figures: what was measured, run by run, and the one JSON line that tells it.

use serde_json::{Value, json};

/// Which direction is good.
#[derive(Clone, Copy)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One figure of two programs, measured in interleaved runs.
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    better: Better,
    /// What the name leaves out, as members of the line.
    labels: Vec<(&'static str, Value)>,
    ours: Vec<f64>,
    peer: Vec<f64>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, better: Better) -> Self {
        Self { name: name.into(), unit, better, labels: Vec::new(), ours: Vec::new(), peer: Vec::new() }
    }

    /// Adds to the line what tells this figure from others of its name.
    pub(crate) fn label(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.labels.push((key, value.into()));
        self
    }

    pub(crate) fn record(&mut self, side: Side, value: f64) {
        match side {
            Side::Ours => self.ours.push(value),
            Side::Peer => self.peer.push(value),
        }
    }

    /// Medians and their ratio (ours / peer), and the lowest and highest run of each. Peer and ratio are null where the
    /// peer can do no such thing.
    pub(crate) fn line(&self) -> Value {
        let (ours, peer) = (median(&self.ours), median(&self.peer));
        let runs = if self.peer.is_empty() { self.ours.len() } else { self.ours.len().min(self.peer.len()) };
        let better = match self.better {
            Better::Higher => "higher",
            Better::Lower => "lower",
        };
        let mut line = json!({
            "figure": self.name,
            "ours": rounded(ours),
            "peer": rounded(peer),
            "ratio": rounded(ours / peer),
            "runs": runs,
            "unit": self.unit,
            "better": better,
            "ours_spread": spread(&self.ours),
            "peer_spread": spread(&self.peer),
        });
        for (key, value) in &self.labels {
            line[*key] = value.clone();
        }
        line
    }
}

/// Whose program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Ours,
    Peer,
}

/// Who runs first in the n-th round.
pub(crate) fn order(round: usize) -> [Side; 2] {
    if round.is_multiple_of(2) { [Side::Ours, Side::Peer] } else { [Side::Peer, Side::Ours] }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(value), 1) => *value,
        (Some(upper), _) => (sorted[middle - 1] + upper) / 2.0,
        (None, _) => f64::NAN,
    }
}

fn spread(values: &[f64]) -> Value {
    let lowest = values.iter().copied().min_by(f64::total_cmp);
    let highest = values.iter().copied().max_by(f64::total_cmp);
    json!([lowest.map(rounded), highest.map(rounded)])
}

/// Four significant digits: no run repeats to more.
pub(crate) fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let decimals = 3 - value.abs().log10().floor() as i32;
    // Scaling by a whole power of ten both ways, because 0.1 has no exact double.
    if decimals >= 0 {
        let scale = 10f64.powi(decimals);
        (value * scale).round() / scale
    } else {
        let scale = 10f64.powi(-decimals);
        (value / scale).round() * scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_medians_and_their_ratio() {
        let mut figure = Figure::new("http_hello_rps", "requests/s", Better::Higher);
        for value in [900.0, 1000.0, 5.0] {
            figure.record(Side::Ours, value);
        }
        for value in [1000.0, 2000.0, 1000.0, 800.0] {
            figure.record(Side::Peer, value);
        }
        let line = figure.line();
        assert_eq!(line["ours"], 900.0);
        assert_eq!(line["peer"], 1000.0);
        assert_eq!(line["ratio"], 0.9);
        assert_eq!(line["runs"], 3);
        assert_eq!(line["ours_spread"], json!([5.0, 1000.0]));
    }

    #[test]
    fn a_line_without_a_peer_has_no_ratio() {
        let mut figure = Figure::new("js_ai_stream_rps", "requests/s", Better::Higher);
        figure.record(Side::Ours, 3.0);
        let line = figure.line();
        assert_eq!((&line["ours"], &line["peer"], &line["ratio"]), (&json!(3.0), &Value::Null, &Value::Null));
        assert_eq!(line["runs"], 1);
    }

    #[test]
    fn labels_tell_figures_of_one_name_apart() {
        let figure = Figure::new("llm_bandwidth_share", "of the bound", Better::Higher);
        let line = figure.label("quant", "q4_0").label("threads", 2).line();
        assert_eq!(
            (&line["figure"], &line["quant"], &line["threads"]),
            (&json!("llm_bandwidth_share"), &json!("q4_0"), &json!(2))
        );
    }

    #[test]
    fn the_order_alternates() {
        assert_eq!(order(0), [Side::Ours, Side::Peer]);
        assert_eq!(order(1), [Side::Peer, Side::Ours]);
    }

    #[test]
    fn four_digits_are_kept() {
        assert_eq!(rounded(12345.6), 12350.0);
        assert_eq!(rounded(0.000_123_456), 0.000_123_5);
        assert_eq!(rounded(0.0), 0.0);
    }
}
