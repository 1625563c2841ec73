//! Changes of stored bytes, as somebody makes them who can write to a disk and has no keys.

/// Input bytes that one change takes.
pub const LEN: usize = 8;

/// Makes one change in one of `files`. An empty file only grows.
pub fn edit(choice: &[u8; LEN], files: &mut [Vec<u8>]) {
    let [file, what, at @ .., count, number, value] = *choice;
    let file = usize::from(file) % files.len();
    let len = files[file].len();
    let at = u32::from_le_bytes([at[0], at[1], at[2], 0]) as usize % (len + 1);
    let count = (usize::from(count) * 16 + 1).min(len - at);
    match what % 8 {
        0 => files[file][at..].iter_mut().take(1).for_each(|byte| *byte ^= value.max(1)),
        1 => files[file][at..].iter_mut().zip([number, value]).for_each(|(byte, new)| *byte = new),
        2 => files[file][at..at + count].fill(0),
        3 => files[file].truncate(at),
        4 => files[file].extend(std::iter::repeat_n(value, usize::from(number) * 16)),
        5 => {
            // From elsewhere, be it from another file.
            let from = usize::from(number) % files.len();
            let start = (usize::from(value) * 512).min(files[from].len());
            let bytes: Vec<u8> = files[from][start..].iter().take(count).copied().collect();
            files[file][at..at + bytes.len()].copy_from_slice(&bytes);
        }
        6 => drop(files[file].drain(at..at + count)),
        _ => {
            let other = usize::from(number) % files.len();
            files.swap(file, other);
        }
    }
}
