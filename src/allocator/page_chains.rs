//! Checks the offsets of mimalloc's free chains by the agreement of all pages.

use crate::python::proof_error::ProofError;

use super::mimalloc::{CHAINS, Page};

/// Fewer contradicting pages than this may be damaged and prove nothing.
const REFUTED_MIN: u64 = 3;

/// How many pages agree with the offsets of their free chains. Pages that changed while they were read are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageChains {
    /// Pages with each of the [`CHAINS`] whose count equals the length of their chains.
    confirmed: [u64; CHAINS.len()],
    /// Pages with it whose chains leave the page or meet.
    refuted: [u64; CHAINS.len()],
    /// Pages whose count differs by one block from their chains: their thread may have been stopped between two steps
    /// of allocating or freeing.
    pub(crate) unbalanced: u64,
}

impl PageChains {
    /// Adds the counts of another worker.
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

    /// Checks that most pages with each of the chains agree, and that there are at most as many unbalanced pages as
    /// threads, each of which may have been stopped in one. `threads` is called only if there are any.
    ///
    /// # Errors
    /// The first chain for which this does not hold, or the count.
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
        // The list of threads must not be read.
        assert_eq!(judged(of(1), 0), None);
        let no_need = || panic!("threads must not be called");
        assert!(of(0).judge(no_need).is_ok());
    }
}
