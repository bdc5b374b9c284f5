"""The local Ray and the relauncher of drivers."""
