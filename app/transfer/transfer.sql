-- branch --
-- The turns of a branch.
{_branch}
SELECT id FROM branch
