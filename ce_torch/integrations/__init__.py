"""Ways into the trainers that people use. Each module needs its library, which nothing else imports."""
