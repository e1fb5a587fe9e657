//! Which rows of a batch have which adapter.

use host_kernels::low_rank::{Update, add_low_rank};

use super::{Adapter, Projection};
use crate::text::forward::Span;
use crate::text::weights::Compute;

/// The rows of a batch by adapter: those of one adapter together, wherever its sequences stand in the batch.
pub(crate) struct AdaptedRows<'a>(Vec<(&'a Adapter, Vec<usize>)>);

impl<'a> AdaptedRows<'a> {
    /// Of a batch of `spans`.
    pub(crate) fn of(spans: &[Span<'a>]) -> Self {
        let mut groups: Vec<(&Adapter, Vec<usize>)> = Vec::new();
        let mut start = 0;
        for span in spans {
            let rows = start..start + span.tokens.len();
            start = rows.end;
            let Some(adapter) = span.adapter else { continue };
            match groups.iter_mut().find(|(known, _)| known.id == adapter.id) {
                Some((_, known)) => known.extend(rows),
                None => groups.push((adapter, rows.collect())),
            }
        }
        Self(groups)
    }

    /// Adds to products of layer `layer` what the rows' adapters add: `x` is what was multiplied, in rows of `columns`
    /// values, and each output is of the base weight alone. Rows without an adapter stay as they are.
    pub(crate) fn add(
        &self,
        compute: &mut Compute,
        layer: usize,
        x: &[f32],
        columns: usize,
        outputs: &mut [(Projection, &mut Vec<f32>)],
    ) {
        let mut updates = Vec::new();
        for (adapter, rows) in &self.0 {
            for (output, (projection, _)) in outputs.iter().enumerate() {
                let factors = adapter.update(layer, *projection);
                updates.extend(factors.map(|factors| Update { factors, output, rows }));
            }
        }
        if updates.is_empty() {
            return;
        }
        let mut outputs: Vec<&mut [f32]> = outputs.iter_mut().map(|(_, output)| output.as_mut_slice()).collect();
        add_low_rank(compute.isa, &compute.pool, x, columns, &mut outputs, &updates, &mut compute.hidden);
    }
}
