//! What the beams of a decoder said, as keys and values of every layer.
//!
//! Rows stay where they were written. A beam is a list of rows, and beams that began alike share those rows; a row that
//! no beam has any more is written anew, so memory grows with what the beams hold and not with beams times steps.

/// Keys and values of one layer, row after row.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

/// The beams of one decoding.
pub struct Beams {
    pub(super) layers: Vec<Rows>,
    /// The rows of each beam, first token first.
    pub(super) places: Vec<Vec<u32>>,
    /// How many tokens of each beam have a place; those of padding have none.
    pub(super) counted: Vec<usize>,
    free: Vec<u32>,
    rows: usize,
}

impl Beams {
    /// One beam that said nothing yet.
    pub(super) fn new(layers: usize) -> Self {
        Self {
            layers: (0..layers).map(|_| Rows::default()).collect(),
            places: vec![Vec::new()],
            counted: vec![0],
            free: Vec::new(),
            rows: 0,
        }
    }

    /// How many beams there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Goes on with these beams, in this order; one may be named several times.
    pub fn keep(&mut self, parents: &[usize]) {
        self.counted = parents.iter().map(|parent| self.counted[*parent]).collect();
        self.places = parents.iter().map(|parent| self.places[*parent].clone()).collect();
        let mut used = vec![false; self.rows];
        for place in self.places.iter().flatten() {
            used[*place as usize] = true;
        }
        self.free.clear();
        self.free.extend((0u32..).zip(&used).filter(|(_, used)| !**used).map(|(row, _)| row));
    }

    /// A row for one more token of every beam.
    pub(super) fn grow(&mut self) {
        for places in &mut self.places {
            let row = self.free.pop().unwrap_or_else(|| {
                self.rows += 1;
                (self.rows - 1) as u32
            });
            places.push(row);
        }
    }

    /// Writes the keys and values of every beam's newest token.
    pub(super) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let width = keys.len() / self.places.len().max(1);
        let Rows { keys: all_keys, values: all_values } = &mut self.layers[layer];
        all_keys.resize(self.rows * width, 0.0);
        all_values.resize(self.rows * width, 0.0);
        for (beam, places) in self.places.iter().enumerate() {
            let Some(row) = places.last().map(|row| *row as usize) else { continue };
            all_keys[row * width..(row + 1) * width].copy_from_slice(&keys[beam * width..(beam + 1) * width]);
            all_values[row * width..(row + 1) * width].copy_from_slice(&values[beam * width..(beam + 1) * width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beams_share_rows_and_rows_are_used_again() {
        let mut beams = Beams::new(1);
        beams.grow();
        beams.write(0, &[1.0, 1.0], &[1.0, 1.0]);
        beams.keep(&[0, 0, 0]);
        beams.grow();
        beams.write(0, &[2.0, 2.0, 3.0, 3.0, 4.0, 4.0], &[0.0; 6]);
        assert_eq!(beams.places, [[0, 1], [0, 2], [0, 3]]);
        beams.keep(&[2, 2]);
        beams.grow();
        assert_eq!((beams.places[0][..2].to_vec(), beams.places[1][..2].to_vec()), (vec![0, 3], vec![0, 3]));
        let mut new: Vec<u32> = beams.places.iter().map(|places| places[2]).collect();
        new.sort_unstable();
        assert_eq!((new, beams.rows, beams.len()), (vec![1, 2], 4, 2));
    }
}
