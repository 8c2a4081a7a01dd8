//! Division of many items into batches of limited size.

/// Limits of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Number of items.
    pub items: usize,
    /// Bytes of all items together. One item that is larger makes a batch by itself.
    pub bytes: u64,
}

/// Divides items into batches, in their order. `size` is the number of bytes that an item takes in a batch.
pub fn batches<T>(
    items: impl IntoIterator<Item = T>,
    limits: BatchLimits,
    size: impl Fn(&T) -> u64,
) -> Vec<Vec<T>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0_u64;
    for item in items {
        let size = size(&item);
        let is_full = batch.len() >= limits.items || bytes.saturating_add(size) > limits.bytes;
        if is_full && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes = bytes.saturating_add(size);
        batch.push(item);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_order_and_both_limits() {
        let limits = BatchLimits { items: 3, bytes: 10 };
        let divided = batches([1, 2, 3, 4, 5, 5, 20, 1, 11], limits, |size| *size);
        let expected: [&[u64]; 6] = [&[1, 2, 3], &[4, 5], &[5], &[20], &[1], &[11]];
        assert_eq!(divided, expected);
        assert_eq!(batches([], limits, |size| *size), Vec::<Vec<u64>>::new());
    }
}
