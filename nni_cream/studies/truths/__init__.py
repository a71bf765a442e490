"""What one-shot scores are compared with: trained here, or taken over from others."""
