"""What sampling starts from: a trace of a reference image; schedules that end in noise."""
