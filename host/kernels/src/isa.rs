//! Which vector instructions this processor has, found out at run time.
//!
//! The binary is built for the baseline of its target, so one build serves a laptop and a server. An [`Isa`] can only
//! be had from detection, which is what makes it sound to call a kernel compiled for that instruction set.

use std::sync::OnceLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

/// An instruction set that this processor is known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Level);

impl Isa {
    /// Plain Rust: the twin that the others are tested against.
    pub const SCALAR: Self = Self(Level::Scalar);

    /// The best of [`Self::available`].
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::SCALAR))
    }

    /// Everything that this processor has, slowest first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                all.push(Self(Level::Avx2));
            }
            if avx2 && is_x86_feature_detected!("avxvnni") {
                all.push(Self(Level::AvxVnni));
            }
            let vnni = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 && vnni {
                all.push(Self(Level::Avx512Vnni));
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            if std::arch::is_aarch64_feature_detected!("neon") {
                all.push(Self(Level::Neon));
                if std::arch::is_aarch64_feature_detected!("dotprod") {
                    all.push(Self(Level::NeonDot));
                }
            }
        }
        all
    }

    /// A name for logs and benches.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => "neon-dotprod",
        }
    }
}

/// Compiles one body for each instruction set and picks one by its `Isa`. The body is generic over `FMA`: whether
/// [`crate::elementwise::madd`] may fuse, since a fused multiply-add without hardware for it is a slow call.
macro_rules! per_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($isa:ident, $($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($isa: $crate::isa::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) {
                $body::<true>($($arg),*)
            }
            match $isa.0 {
                $crate::isa::Level::Scalar => $body::<false>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of these levels exists only where detection found these features.
                $crate::isa::Level::Avx2 | $crate::isa::Level::AvxVnni => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this level exists only where detection found these features.
                $crate::isa::Level::Avx512Vnni => unsafe { avx512($($arg),*) },
                // NEON and its fused multiply-add are part of the target's baseline.
                #[cfg(target_arch = "aarch64")]
                $crate::isa::Level::Neon | $crate::isa::Level::NeonDot => $body::<true>($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;
