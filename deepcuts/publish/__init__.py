"""Results for others: the HTML report, and a pruned network with its model card."""
