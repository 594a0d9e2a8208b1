"""What is carried out: the runs of a plan, and what several runs of a study say together.

``runner`` makes the runs of a plan, ``twins`` says where the two frameworks part,
``journey`` moves a training from one to the other, ``compare`` varies what the user names,
``everything`` does several of these side by side.
"""
