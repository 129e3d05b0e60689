//! Checks where mimalloc's pages keep their chains of free blocks, by what all pages together say.

use crate::python::proof_error::ProofError;

use super::mimalloc::{CHAINS, Page};

/// As many pages of which no reading makes sense may have been damaged, whatever chain they hold.
const REFUTED_MIN: u64 = 3;

/// What pages say of where their chains of free blocks begin. Pages that changed while they were read say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageChains {
    /// Pages that hold each of the [`CHAINS`] and count as many blocks as they chain.
    confirmed: [u64; CHAINS.len()],
    /// Those that hold it, and whose chains lead out of the page or meet.
    refuted: [u64; CHAINS.len()],
    /// Pages that count one free block more or less than they chain: the thread that took it or gave it back may have
    /// been stopped between the two steps.
    pub(crate) unbalanced: u64,
}

impl PageChains {
    /// Adds another worker's.
    pub fn add(&mut self, other: &PageChains) {
        (0..CHAINS.len()).for_each(|index| {
            self.confirmed[index] += other.confirmed[index];
            self.refuted[index] += other.refuted[index];
        });
        self.unbalanced += other.unbalanced;
    }

    pub(crate) fn confirm(&mut self, page: &Page) {
        self.confirmed.iter_mut().zip(page.chains()).for_each(|(pages, held)| *pages += u64::from(held));
    }

    pub(crate) fn refute(&mut self, page: &Page) {
        self.refuted.iter_mut().zip(page.chains()).for_each(|(pages, held)| *pages += u64::from(held));
    }

    /// The layout holds for most pages with each of the chains, and no more are one block away from their own count
    /// than there are threads to be stopped in one each. `threads` is asked for only if any is.
    ///
    /// # Errors
    /// The first chain for which it does not, or that of the count.
    pub fn judge(&self, threads: impl FnOnce() -> usize) -> Result<(), ProofError> {
        for (field, (confirmed, refuted)) in CHAINS.into_iter().zip(self.confirmed.into_iter().zip(self.refuted)) {
            if refuted >= REFUTED_MIN && refuted > confirmed {
                let detail = format!("{refuted} pages contradict it, {confirmed} do not");
                return Err(ProofError::Field { field, detail });
            }
        }
        if self.unbalanced > 0 {
            let (pages, threads) = (self.unbalanced, threads().max(1) as u64);
            if pages > threads {
                let detail =
                    format!("{pages} pages chain one block more or less than they count, for {threads} threads");
                return Err(ProofError::Field { field: "mi_page.used", detail });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(chains: PageChains, threads: usize) -> Option<&'static str> {
        match chains.judge(|| threads) {
            Ok(()) => None,
            Err(ProofError::Field { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn pages_refute_the_chain_that_they_hold() {
        let of = |confirmed, refuted| PageChains { confirmed, refuted, unbalanced: 0 };
        assert_eq!(judged(of([90, 0, 0], [14, 14, 0]), 1), Some("mi_page.local_free"));
        assert_eq!(judged(of([90, 14, 0], [14, 14, 3]), 1), Some("mi_page.xthread_free"));
        assert_eq!(judged(of([90, 14, 3], [14, 14, 3]), 1), None);
        assert_eq!(judged(of([90, 0, 0], [2, 2, 2]), 1), None);
    }

    #[test]
    fn each_thread_may_be_between_two_steps_in_one_page() {
        let of = |unbalanced| PageChains { unbalanced, ..PageChains::default() };
        assert_eq!(judged(of(4), 4), None);
        assert_eq!(judged(of(5), 4), Some("mi_page.used"));
        // The list of threads was not to be read.
        assert_eq!(judged(of(1), 0), None);
        let no_need = || panic!("it need not be asked");
        assert!(of(0).judge(no_need).is_ok());
    }
}
