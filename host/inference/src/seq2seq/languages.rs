//! Languages: their codes, their English names, and how each family of models writes them.

/// A language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Language {
    /// As M2M-100 has it: ISO 639-1 where there is one.
    pub(super) code: &'static str,
    /// In English.
    pub(super) name: &'static str,
    /// ISO 639-3.
    pub(super) long: &'static str,
    /// As NLLB has it; empty where it has not.
    flores: &'static str,
    /// As mBART has it; empty where it has not.
    mbart: &'static str,
}

/// The codes of WMT21's models, in the order of their tokens.
pub(super) const WMT_21: [&str; 8] = ["en", "ha", "is", "ja", "cs", "ru", "zh", "de"];

/// M2M-100's languages, in the order of their tokens.
#[rustfmt::skip]
const LANGUAGES: [(&str, &str, &str, &str, &str); 100] = [
    ("af", "Afrikaans", "afr", "afr_Latn", "af_ZA"),
    ("am", "Amharic", "amh", "amh_Ethi", ""),
    ("ar", "Arabic", "arb", "arb_Arab", "ar_AR"),
    ("ast", "Asturian", "ast", "ast_Latn", ""),
    ("az", "Azerbaijani", "azj", "azj_Latn", "az_AZ"),
    ("ba", "Bashkir", "bak", "bak_Cyrl", ""),
    ("be", "Belarusian", "bel", "bel_Cyrl", ""),
    ("bg", "Bulgarian", "bul", "bul_Cyrl", ""),
    ("bn", "Bengali", "ben", "ben_Beng", "bn_IN"),
    ("br", "Breton", "bre", "", ""),
    ("bs", "Bosnian", "bos", "bos_Latn", ""),
    ("ca", "Catalan", "cat", "cat_Latn", ""),
    ("ceb", "Cebuano", "ceb", "ceb_Latn", ""),
    ("cs", "Czech", "ces", "ces_Latn", "cs_CZ"),
    ("cy", "Welsh", "cym", "cym_Latn", ""),
    ("da", "Danish", "dan", "dan_Latn", ""),
    ("de", "German", "deu", "deu_Latn", "de_DE"),
    ("el", "Greek", "ell", "ell_Grek", ""),
    ("en", "English", "eng", "eng_Latn", "en_XX"),
    ("es", "Spanish", "spa", "spa_Latn", "es_XX"),
    ("et", "Estonian", "est", "est_Latn", "et_EE"),
    ("fa", "Persian", "pes", "pes_Arab", "fa_IR"),
    ("ff", "Fulah", "fuv", "fuv_Latn", ""),
    ("fi", "Finnish", "fin", "fin_Latn", "fi_FI"),
    ("fr", "French", "fra", "fra_Latn", "fr_XX"),
    ("fy", "Western Frisian", "fry", "", ""),
    ("ga", "Irish", "gle", "gle_Latn", ""),
    ("gd", "Gaelic", "gla", "gla_Latn", ""),
    ("gl", "Galician", "glg", "glg_Latn", "gl_ES"),
    ("gu", "Gujarati", "guj", "guj_Gujr", "gu_IN"),
    ("ha", "Hausa", "hau", "hau_Latn", ""),
    ("he", "Hebrew", "heb", "heb_Hebr", "he_IL"),
    ("hi", "Hindi", "hin", "hin_Deva", "hi_IN"),
    ("hr", "Croatian", "hrv", "hrv_Latn", "hr_HR"),
    ("ht", "Haitian", "hat", "hat_Latn", ""),
    ("hu", "Hungarian", "hun", "hun_Latn", ""),
    ("hy", "Armenian", "hye", "hye_Armn", ""),
    ("id", "Indonesian", "ind", "ind_Latn", "id_ID"),
    ("ig", "Igbo", "ibo", "ibo_Latn", ""),
    ("ilo", "Iloko", "ilo", "ilo_Latn", ""),
    ("is", "Icelandic", "isl", "isl_Latn", ""),
    ("it", "Italian", "ita", "ita_Latn", "it_IT"),
    ("ja", "Japanese", "jpn", "jpn_Jpan", "ja_XX"),
    ("jv", "Javanese", "jav", "jav_Latn", ""),
    ("ka", "Georgian", "kat", "kat_Geor", "ka_GE"),
    ("kk", "Kazakh", "kaz", "kaz_Cyrl", "kk_KZ"),
    ("km", "Khmer", "khm", "khm_Khmr", "km_KH"),
    ("kn", "Kannada", "kan", "kan_Knda", ""),
    ("ko", "Korean", "kor", "kor_Hang", "ko_KR"),
    ("lb", "Luxembourgish", "ltz", "ltz_Latn", ""),
    ("lg", "Ganda", "lug", "lug_Latn", ""),
    ("ln", "Lingala", "lin", "lin_Latn", ""),
    ("lo", "Lao", "lao", "lao_Laoo", ""),
    ("lt", "Lithuanian", "lit", "lit_Latn", "lt_LT"),
    ("lv", "Latvian", "lvs", "lvs_Latn", "lv_LV"),
    ("mg", "Malagasy", "plt", "plt_Latn", ""),
    ("mk", "Macedonian", "mkd", "mkd_Cyrl", "mk_MK"),
    ("ml", "Malayalam", "mal", "mal_Mlym", "ml_IN"),
    ("mn", "Mongolian", "khk", "khk_Cyrl", "mn_MN"),
    ("mr", "Marathi", "mar", "mar_Deva", "mr_IN"),
    ("ms", "Malay", "zsm", "zsm_Latn", ""),
    ("my", "Burmese", "mya", "mya_Mymr", "my_MM"),
    ("ne", "Nepali", "npi", "npi_Deva", "ne_NP"),
    ("nl", "Dutch", "nld", "nld_Latn", "nl_XX"),
    ("no", "Norwegian", "nob", "nob_Latn", ""),
    ("ns", "Northern Sotho", "nso", "nso_Latn", ""),
    ("oc", "Occitan", "oci", "oci_Latn", ""),
    ("or", "Oriya", "ory", "ory_Orya", ""),
    ("pa", "Punjabi", "pan", "pan_Guru", ""),
    ("pl", "Polish", "pol", "pol_Latn", "pl_PL"),
    ("ps", "Pashto", "pbt", "pbt_Arab", "ps_AF"),
    ("pt", "Portuguese", "por", "por_Latn", "pt_XX"),
    ("ro", "Romanian", "ron", "ron_Latn", "ro_RO"),
    ("ru", "Russian", "rus", "rus_Cyrl", "ru_RU"),
    ("sd", "Sindhi", "snd", "snd_Arab", ""),
    ("si", "Sinhala", "sin", "sin_Sinh", "si_LK"),
    ("sk", "Slovak", "slk", "slk_Latn", ""),
    ("sl", "Slovenian", "slv", "slv_Latn", "sl_SI"),
    ("so", "Somali", "som", "som_Latn", ""),
    ("sq", "Albanian", "als", "als_Latn", ""),
    ("sr", "Serbian", "srp", "srp_Cyrl", ""),
    ("ss", "Swati", "ssw", "ssw_Latn", ""),
    ("su", "Sundanese", "sun", "sun_Latn", ""),
    ("sv", "Swedish", "swe", "swe_Latn", "sv_SE"),
    ("sw", "Swahili", "swh", "swh_Latn", "sw_KE"),
    ("ta", "Tamil", "tam", "tam_Taml", "ta_IN"),
    ("th", "Thai", "tha", "tha_Thai", "th_TH"),
    ("tl", "Tagalog", "tgl", "tgl_Latn", "tl_XX"),
    ("tn", "Tswana", "tsn", "tsn_Latn", ""),
    ("tr", "Turkish", "tur", "tur_Latn", "tr_TR"),
    ("uk", "Ukrainian", "ukr", "ukr_Cyrl", "uk_UA"),
    ("ur", "Urdu", "urd", "urd_Arab", "ur_PK"),
    ("uz", "Uzbek", "uzn", "uzn_Latn", ""),
    ("vi", "Vietnamese", "vie", "vie_Latn", "vi_VN"),
    ("wo", "Wolof", "wol", "wol_Latn", ""),
    ("xh", "Xhosa", "xho", "xho_Latn", "xh_ZA"),
    ("yi", "Yiddish", "ydd", "ydd_Hebr", ""),
    ("yo", "Yoruba", "yor", "yor_Latn", ""),
    ("zh", "Chinese", "zho", "zho_Hans", "zh_CN"),
    ("zu", "Zulu", "zul", "zul_Latn", ""),
];

/// All languages, in the order of M2M-100's tokens.
pub(super) fn all() -> impl Iterator<Item = Language> {
    LANGUAGES.iter().map(|&(code, name, long, flores, mbart)| Language { code, name, long, flores, mbart })
}

/// The language of this code or English name, in any case.
pub(super) fn find(asked: &str) -> Option<Language> {
    let plain = asked.trim().replace('-', "_");
    let main = plain.split('_').next().unwrap_or_default();
    let is = |text: &str, asked: &str| !text.is_empty() && text.eq_ignore_ascii_case(asked);
    all()
        .find(|l| [l.code, l.name, l.long, l.flores, l.mbart].iter().any(|text| is(text, &plain)))
        // `en-GB`, `zh-Hans`: what no table has under its whole name has it under its first part.
        .or_else(|| all().find(|l| main.len() < plain.len() && (is(l.code, main) || is(l.long, main))))
}

impl Language {
    /// What its token may be called, whatever the family.
    pub(super) fn tokens(self) -> [String; 5] {
        let Self { code, long, flores, mbart, .. } = self;
        [format!("__{code}__"), flores.to_owned(), mbart.to_owned(), format!(">>{code}<<"), format!(">>{long}<<")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_found_by_code_and_name() {
        for asked in ["fr", "FR", "French", "french", "fra", "fra_Latn", "fr_XX", "fr-CA", " fr "] {
            assert_eq!(find(asked).map(|language| language.code), Some("fr"), "{asked}");
        }
        assert_eq!(find("zh-CN").unwrap().code, "zh");
        for asked in ["", "xx", "klingon", "_", "francais", "fr,de"] {
            assert_eq!(find(asked), None, "{asked}");
        }
    }

    #[test]
    fn codes_stand_once() {
        let codes: std::collections::HashSet<_> = all().map(|language| language.code).collect();
        assert_eq!(codes.len(), 100);
    }
}
