//! What vocabularies must do.
