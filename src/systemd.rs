//! What systemd gives us and hears from us.
