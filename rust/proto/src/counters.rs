//! Counter structures defined in one place: fields, names and descriptions.

/// Defines a structure of `u64` counters with a list of their names and descriptions.
#[macro_export]
macro_rules! counters {
    (
        $(#[doc = $summary:literal])+
        pub struct $name:ident {
            $( $(#[doc = $text:literal])+ $field:ident, )+
        }
    ) => {
        $(#[doc = $summary])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $( $(#[doc = $text])+ pub $field: u64, )+
        }

        impl $name {
            /// Names and descriptions, in the order of [`Self::each`].
            pub const NAMES: &[(&'static str, &'static str)] =
                &[$( (stringify!($field), concat!($($text),+)), )+];

            /// Adds the counters of another.
            pub fn add(&mut self, other: &Self) {
                $( self.$field += other.$field; )+
            }

            /// Every counter's name and value.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$( (stringify!($field), self.$field), )+].into_iter()
            }
        }
    };
}

#[cfg(test)]
#[allow(unreachable_pub, reason = "the macro makes public structures")]
mod tests {
    counters! {
        /// Counters of a test.
        pub struct Counted {
            /// Apples.
            apples,
            /// Pears,
            /// and other fruit.
            pears,
        }
    }

    #[test]
    fn names_values_and_meanings_come_from_one_list() {
        let mut counted = Counted { apples: 1, pears: 0 };
        counted.add(&Counted { apples: 0, pears: 2 });
        assert_eq!(counted.each().collect::<Vec<_>>(), [("apples", 1), ("pears", 2)]);
        assert_eq!(Counted::NAMES, [("apples", " Apples."), ("pears", " Pears, and other fruit.")]);
    }
}
